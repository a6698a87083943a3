#include "espalier/report/tensorboard.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <string>

#include "espalier/base/file.h"
#include "espalier/report/test_run.h"

namespace espalier::report {
namespace {

// RFC 3720, appendix B.4, and the usual check value of "123456789".
TEST(Tensorboard, Crc32cMatchesPublishedVectors) {
  const std::string digits = "123456789";
  EXPECT_EQ(crc32c({reinterpret_cast<const uint8_t*>(digits.data()), digits.size()}), 0xE3069283u);
  EXPECT_EQ(crc32c(Bytes(32, 0x00)), 0x8A9136AAu);
  EXPECT_EQ(crc32c(Bytes(32, 0xFF)), 0x62A8AB43u);
  Bytes rising(32);
  std::iota(rising.begin(), rising.end(), uint8_t{0});
  EXPECT_EQ(crc32c(rising), 0x46DD794Eu);
  EXPECT_EQ(crc32c({}), 0u);
}

struct Event {
  double time = 0;
  uint64_t step = 0;
  std::string version;
  std::map<std::string, float> values;
};

uint64_t varint(ByteReader& in) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = in.get<uint8_t>();
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if ((byte & 0x80) == 0) return value;
  }
}

std::string text(std::span<const uint8_t> data) { return {data.begin(), data.end()}; }

void parse_summary(std::span<const uint8_t> data, Event& event) {
  ByteReader in(data, "summary");
  while (in.remaining() > 0) {
    EXPECT_EQ(in.get<uint8_t>(), 1 << 3 | 2);
    ByteReader value(in.take(varint(in)), "value");
    EXPECT_EQ(value.get<uint8_t>(), 1 << 3 | 2);
    const std::string tag = text(value.take(varint(value)));
    EXPECT_EQ(value.get<uint8_t>(), 2 << 3 | 5);
    event.values[tag] = value.get<float>();
    EXPECT_EQ(value.remaining(), 0u);
  }
}

std::vector<Event> parse_file(std::span<const uint8_t> data) {
  std::vector<Event> events;
  ByteReader in(data, "event file");
  while (in.remaining() > 0) {
    const auto length_bytes = in.take(8);
    EXPECT_EQ(in.get<uint32_t>(), masked_crc32c(length_bytes));
    uint64_t length = 0;
    std::memcpy(&length, length_bytes.data(), 8);
    const auto record = in.take(length);
    EXPECT_EQ(in.get<uint32_t>(), masked_crc32c(record));
    Event& event = events.emplace_back();
    ByteReader fields(record, "event");
    while (fields.remaining() > 0) {
      switch (fields.get<uint8_t>()) {
        case 1 << 3 | 1:
          event.time = fields.get<double>();
          break;
        case 2 << 3 | 0:
          event.step = varint(fields);
          break;
        case 3 << 3 | 2:
          event.version = text(fields.take(varint(fields)));
          break;
        case 5 << 3 | 2:
          parse_summary(fields.take(varint(fields)), event);
          break;
        default:
          ADD_FAILURE() << "unknown field";
          return events;
      }
    }
  }
  return events;
}

TEST(Tensorboard, EventsReadBack) {
  const TemporaryFolder base;
  const auto path = base.path() / "events.out.tfevents.espalier";
  for (int repeat = 0; repeat < 2; ++repeat) {  // a second writer replaces the file
    EventWriter writer(path, 1000);
    writer.add(
        {{"round", 1}, {"accuracy", 0.25}, {"wall_seconds", 2.5}, {"note", "text is left out"}});
    writer.add({{"round", 300}, {"loss", nullptr}, {"bytes_up", 7}, {"too_large", 1e300}});
  }
  const auto events = parse_file(read_file(path));
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[0].time, 1000);
  EXPECT_EQ(events[1].step, 1u);
  EXPECT_EQ(events[1].time, 1002.5);
  EXPECT_EQ(events[1].values,
            (std::map<std::string, float>{{"accuracy", 0.25f}, {"wall_seconds", 2.5f}}));
  EXPECT_EQ(events[2].step, 300u);
  EXPECT_EQ(events[2].values, (std::map<std::string, float>{{"bytes_up", 7.0f}}));
}

TEST(Tensorboard, AFolderThatIsNotThereIsAnError) {
  EXPECT_THROW(EventWriter("/nonexistent/events", 0), Error);
}

}  // namespace
}  // namespace espalier::report

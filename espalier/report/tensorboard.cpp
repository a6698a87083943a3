#include "espalier/report/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>

#include "espalier/report/run_folder.h"

namespace espalier::report {

namespace {

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82F63B78u : 0u);
    table[i] = value;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kTable = make_table();

enum WireType : uint8_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

void put_varint(ByteWriter& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.put(static_cast<uint8_t>(value | 0x80));
  out.put(static_cast<uint8_t>(value));
}
// All field numbers here are below 16, so a tag is one byte.
void put_tag(ByteWriter& out, unsigned field, WireType type) {
  out.put(static_cast<uint8_t>(field << 3 | type));
}
void put_bytes(ByteWriter& out, unsigned field, std::span<const uint8_t> data) {
  put_tag(out, field, kLengthDelimited);
  put_varint(out, data.size());
  out.bytes(data);
}
std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

void put_time(ByteWriter& out, double seconds) {
  put_tag(out, 1, kFixed64);
  out.put(seconds);
}

}  // namespace

uint32_t crc32c(std::span<const uint8_t> data) {
  uint32_t value = ~0u;
  for (const uint8_t byte : data) value = kTable[(value ^ byte) & 0xFF] ^ (value >> 8);
  return ~value;
}

uint32_t masked_crc32c(std::span<const uint8_t> data) {
  const uint32_t crc = crc32c(data);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

EventWriter::EventWriter(const std::filesystem::path& path, double start_seconds)
    : path_(path),
      start_seconds_(start_seconds),
      descriptor_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
  if (descriptor_ < 0)
    fail("report/tensorboard", "cannot write ", path_.string(), ": ", std::strerror(errno));
  try {
    Bytes event;
    ByteWriter out(event);
    put_time(out, start_seconds_);
    put_bytes(out, 3, bytes_of("brain.Event:2"));
    write_record(event);
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

EventWriter::~EventWriter() { ::close(descriptor_); }

void EventWriter::add(const Json& metrics_line) {
  Bytes summary;
  ByteWriter values(summary);
  for (const auto& [key, field] : metrics_line.items()) {
    const auto number = number_in(metrics_line, key);
    if (key == "round" || !number) continue;
    // A float overflows where a double does not.
    if (std::fabs(*number) > static_cast<double>(std::numeric_limits<float>::max())) continue;
    Bytes value;
    ByteWriter out(value);
    put_bytes(out, 1, bytes_of(key));
    put_tag(out, 2, kFixed32);
    out.put(static_cast<float>(*number));
    put_bytes(values, 1, value);
  }
  Bytes event;
  ByteWriter out(event);
  put_time(out, start_seconds_ + number_in(metrics_line, "wall_seconds").value_or(0));
  put_tag(out, 2, kVarint);
  put_varint(out, static_cast<uint64_t>(number_in(metrics_line, "round").value_or(0)));
  put_bytes(out, 5, summary);
  write_record(event);
}

void EventWriter::write_record(std::span<const uint8_t> data) {
  Bytes record;
  ByteWriter out(record);
  out.put(static_cast<uint64_t>(data.size()));
  out.put(masked_crc32c(std::span(record).first(8)));
  out.bytes(data);
  out.put(masked_crc32c(data));
  std::span<const uint8_t> rest(record);
  while (!rest.empty()) {
    const ssize_t written = ::write(descriptor_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0)
      fail("report/tensorboard", "cannot write ", path_.string(), ": ", std::strerror(errno));
    rest = rest.subspan(static_cast<size_t>(written));
  }
}

}  // namespace espalier::report

// Tasks, updates, checkpoints and client states from hostile bytes. The checksum is made right, so
// that the parsers behind it are reached; what they accept must survive being encoded again.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "espalier/base/error.h"
#include "espalier/client/algorithm.h"
#include "espalier/client/client_state.h"
#include "espalier/codec/codec.h"
#include "espalier/round/checkpoint.h"
#include "espalier/strategy/client_algorithms.h"
#include "espalier/wire/message.h"

namespace {

using namespace espalier;

const std::shared_ptr<const ParameterLayout>& layout() {
  static const auto shared = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{
          {.name = "w", .shape = {3, 2}, .units = {{.axis = 0, .group = 0}}},
          {.name = "b", .shape = {3}, .role = Role::kBias, .units = {{.axis = 0, .group = 0}}}},
      std::vector<UnitGroup>{{"w", 3}});
  return shared;
}

Bytes with_checksum(std::span<const uint8_t> content) {
  Bytes bytes(content.begin(), content.end());
  ByteWriter(bytes).put(checksum32(content));
  return bytes;
}

// What a task under a mask may build on, and an update answer.
const std::shared_ptr<const wire::TravellingMask>& mask() {
  static const auto shared =
      std::make_shared<const wire::TravellingMask>(prune::Mask(layout(), {0b101101011}), 2);
  return shared;
}

void decode(uint8_t kind, std::span<const uint8_t> data) {
  static const auto codec = codec::make_codec(Json::array(), "fuzz");
  wire::WireLimits limits{layout(), 1000};
  if (kind == 4) {
    const Bytes stream = write_stream(wire::read_stream(data));
    if (!std::ranges::equal(stream, data)) std::abort();  // one spelling
    return;
  }
  if (kind % 4 == 2) {
    round::decode_checkpoint(data, layout(), "fuzz");  // its checksum is looked at last
    return;
  }
  if (kind % 4 == 3) {
    client::encode_state(client::decode_state(with_checksum(data), "fuzz"));
    return;
  }
  // A message: u16 head size, head, then bodies of u16 size each.
  ByteReader in(data, "fuzz");
  wire::EncodedMessage message;
  message.head = with_checksum(in.take(in.get<uint16_t>()));
  while (in.remaining() > 0) {
    const auto body = in.take(in.get<uint16_t>());
    message.bodies.push_back(std::make_shared<Bytes>(body.begin(), body.end()));
  }
  if (kind % 4 == 0) {
    Key key(0);
    wire::decode_task(message, *codec, limits, nullptr, key, {}, [](const wire::Task&, uint32_t) {
      return std::span<const uint8_t>(mask()->bytes);
    });
  } else {
    limits.mask = mask();
    wire::decode_update(message, *codec, limits);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  try {
    decode(data[0], {data + 1, size - 1});
  } catch (const Error&) {
  }
  return 0;
}

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/shared_work.h"
#include "espalier/codec/codec.h"
#include "espalier/wire/task.h"

// Tasks and updates as bytes: a small head (round, client, options, scalars, names and sizes) and
// one body per payload, which is the codec's message. A simulated round sends exactly these bytes;
// so does a networked one. docs/format.md describes them.
namespace espalier::wire {

// A message as it travels. Bodies that many clients receive are encoded once and shared.
struct EncodedMessage {
  Bytes head;
  std::vector<std::shared_ptr<const Bytes>> bodies;
  bool shared = false;  // whether other clients receive the same bodies; does not travel
  // What the message occupies on the wire: head, bodies and their framing.
  uint64_t size_bytes() const;
};

// Of heads: what a program of another one does not read.
inline constexpr uint8_t kMessageVersion = 4;

using EncodedBodies = SharedWork<ParameterSet, Bytes>;
using DecodedBodies = SharedWork<Bytes, ParameterSet>;

// A message in one piece: u32 size of the head, the head, then for each body its u64 size and the
// body; as many bytes as size_bytes() says. Reading throws Error for what is no such stream, and
// leaves everything inside head and bodies to decode_task and decode_update.
Bytes write_stream(const EncodedMessage& message);
void write_stream(const EncodedMessage& message, Bytes& stream);  // appends
EncodedMessage read_stream(std::span<const uint8_t> stream);
// The same of a stream that lies elsewhere: `read(offset, out)` gives its bytes. Each body is
// allocated once, and only when the stream is long enough for it.
EncodedMessage read_stream(uint64_t size,
                           const std::function<void(uint64_t, std::span<uint8_t>)>& read);

// What a receiver is willing to take.
struct WireLimits {
  std::shared_ptr<const ParameterLayout> model;  // payloads with this layout need no description
  int64_t max_values = int64_t{1} << 31;         // of a payload that describes its own layout
  size_t max_payloads = 1024;
  bool keep_encoded = false;  // updates: bodies are handed over undecoded
  // Updates: the mask that the task carried; null: none.
  std::shared_ptr<const wire::TravellingMask> mask = nullptr;
};

// Whether a payload travels as float32 although `codec` is the run's: the message says so of each.
bool travels_exact(Coding coding, const codec::Codec& codec);

// `codec_key` seeds the codec's randomness. `shared` may be null (every body is encoded anew). With
// `model_delta`, the payload "model" travels as that message of a codec::DeltaSender. The task's
// mask goes along unless the client's state (task.state_version) is of a round in which it had it.
EncodedMessage encode_task(const wire::Task& task, Key client_key, const codec::Codec& codec,
                           Key codec_key, const WireLimits& limits, EncodedBodies* shared,
                           std::shared_ptr<const Bytes> model_delta = nullptr);
// Turns such a message into the model, given the version of the state that the client holds.
using DeltaDecoder = std::function<std::shared_ptr<const ParameterSet>(
    const wire::Task& head, std::span<const uint8_t> message)>;
// The encoded mask of round `round` that the client holds; throws Error when it holds another.
using HeldMask = std::function<std::span<const uint8_t>(const wire::Task& head, uint32_t round)>;
// A task for a part of the model (task.units) has payloads of that size; limits.model is the whole
// model. `client_key` is filled with the key the server sent along. Throws Error for anything
// malformed.
wire::Task decode_task(const EncodedMessage& message, const codec::Codec& codec,
                       const WireLimits& limits, DecodedBodies* shared, Key& client_key,
                       const DeltaDecoder& delta = {}, const HeldMask& held_mask = {});

// Appends the message of one payload of Coding::kRun to a body: of its kept values alone when there
// is a mask. The default is the codec's.
using BodyEncoder =
    std::function<void(const wire::Payload& payload, const prune::Mask* mask, Key key, Bytes& out)>;
// limits.mask: the task's; an update under that mask does not repeat it.
EncodedMessage encode_update(const wire::Update& update, const codec::Codec& codec, Key codec_key,
                             const WireLimits& limits, const BodyEncoder& encode = {});
// Which task an update answers. Throws Error when that cannot be read.
TaskId answered_task(const EncodedMessage& message);
// Payloads under a mask come back with the model's layout, zero where it prunes.
wire::Update decode_update(const EncodedMessage& message, const codec::Codec& codec,
                           const WireLimits& limits);

}  // namespace espalier::wire

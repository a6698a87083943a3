#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/codec/codec.h"
#include "espalier/strategy/task.h"

// Tasks and updates as bytes: a small head (round, client, options, scalars, names and sizes) and
// one body per payload, which is the codec's message. A simulated round sends exactly these bytes;
// so does a networked one. docs/format.md describes them.
namespace espalier::round {

// A message as it travels. Bodies that many clients receive are encoded once and shared.
struct EncodedMessage {
  Bytes head;
  std::vector<std::shared_ptr<const Bytes>> bodies;
  bool shared = false;  // whether other clients receive the same bodies; does not travel
  // What the message occupies on the wire: head, bodies and their framing.
  uint64_t size_bytes() const;
};

// Bodies already encoded or decoded in this round, found by identity. Thread-safe; the first caller
// does the work while the others wait. Cleared after every round.
template <class From, class To>
class SharedWork {
 public:
  std::shared_ptr<const To> get(const std::shared_ptr<const From>& from,
                                const std::function<std::shared_ptr<const To>()>& make) {
    std::shared_ptr<Entry> entry;
    {
      const std::lock_guard lock(mutex_);
      auto& slot = entries_[from.get()];
      if (!slot) slot = std::make_shared<Entry>(from);
      entry = slot;
    }
    std::call_once(entry->once, [&] { entry->value = make(); });
    return entry->value;
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    entries_.clear();
  }

 private:
  struct Entry {
    explicit Entry(std::shared_ptr<const From> source) : from(std::move(source)) {}
    std::shared_ptr<const From> from;  // keeps the address from being reused
    std::once_flag once;
    std::shared_ptr<const To> value;
  };
  std::mutex mutex_;
  std::unordered_map<const From*, std::shared_ptr<Entry>> entries_;
};
using EncodedBodies = SharedWork<ParameterSet, Bytes>;
using DecodedBodies = SharedWork<Bytes, ParameterSet>;

// What a receiver is willing to take.
struct WireLimits {
  std::shared_ptr<const ParameterLayout> model;  // payloads with this layout need no description
  int64_t max_values = int64_t{1} << 31;         // of a payload that describes its own layout
  size_t max_payloads = 1024;
  bool keep_encoded = false;  // updates: bodies are handed over undecoded
  // Updates: the mask that the task carried; null: none.
  std::shared_ptr<const strategy::TravellingMask> mask = nullptr;
};

// `codec_key` seeds the codec's randomness. `shared` may be null (every body is encoded anew). With
// `model_delta`, the payload "model" travels as that message of a codec::DeltaSender. The task's
// mask goes along unless the client's state (task.state_version) is of a round in which it had it.
EncodedMessage encode_task(const strategy::Task& task, Key client_key, const codec::Codec& codec,
                           Key codec_key, const WireLimits& limits, EncodedBodies* shared,
                           std::shared_ptr<const Bytes> model_delta = nullptr);
// Turns such a message into the model, given the version of the state that the client holds.
using DeltaDecoder = std::function<std::shared_ptr<const ParameterSet>(
    const strategy::Task& head, std::span<const uint8_t> message)>;
// The encoded mask of round `round` that the client holds; throws Error when it holds another.
using HeldMask =
    std::function<std::span<const uint8_t>(const strategy::Task& head, uint32_t round)>;
// A task for a part of the model (task.units) has payloads of that size; limits.model is the whole
// model. `client_key` is filled with the key the server sent along. Throws Error for anything
// malformed.
strategy::Task decode_task(const EncodedMessage& message, const codec::Codec& codec,
                           const WireLimits& limits, DecodedBodies* shared, Key& client_key,
                           const DeltaDecoder& delta = {}, const HeldMask& held_mask = {});

// Appends the message of one payload to a body: of its kept values alone when there is a mask. The
// default is the codec's.
using BodyEncoder = std::function<void(const strategy::Payload& payload, const prune::Mask* mask,
                                       Key key, Bytes& out)>;
// limits.mask: the task's; an update under that mask does not repeat it.
EncodedMessage encode_update(const strategy::Update& update, const BodyEncoder& encode,
                             Key codec_key, const WireLimits& limits);
EncodedMessage encode_update(const strategy::Update& update, const codec::Codec& codec,
                             Key codec_key, const WireLimits& limits);
// Payloads under a mask come back with the model's layout, zero where it prunes.
strategy::Update decode_update(const EncodedMessage& message, const codec::Codec& codec,
                               const WireLimits& limits);

}  // namespace espalier::round

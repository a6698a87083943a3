#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "espalier/base/bytes.h"
#include "espalier/base/random.h"
#include "espalier/codec/codec.h"
#include "espalier/params/parameter_set.h"

// Delta downlink: a client that holds the previous state receives the coded difference to the next;
// any other client receives the whole state. Server and clients all hold the same decoded state S,
// to the last bit, whichever way they came to it:
//   S_0 = x_0;  S_t = S_(t−1) + decoded(C(x_t − S_(t−1)));  the whole state is S_t in float32.
// What C lost of one round is part of the next difference, so errors do not accumulate (this is
// Ef21 with the server as sender).
//
// Message: kind (u8: 0 whole, 1 difference), version (u32), then a message of the codec (kind 0: of
// the identity). A difference leads from version − 1 to version.
namespace espalier::codec {

// Not thread-safe while advance() runs.
class DeltaSender {
 public:
  // `codec` codes the differences and must outlive this.
  DeltaSender(const Codec& codec, std::shared_ptr<const ParameterLayout> layout);
  // Goes on from a saved state of that version.
  DeltaSender(const Codec& codec, ParameterSet state, uint32_t version);

  // Makes x, as far as the codec keeps it, the state of the next version. The first state is x
  // itself.
  void advance(const ParameterSet& x, Key key);

  // The message for a client that holds the state of `held`, or none. advance() must have been
  // called.
  std::span<const uint8_t> message_for(std::optional<uint32_t> held) const;

  // What a client has after the message; the server should go on from this and not from x.
  const ParameterSet& state() const { return state_; }
  // Number of calls of advance().
  uint32_t version() const { return version_; }

 private:
  const Codec& codec_;
  std::unique_ptr<Codec> identity_;
  ParameterSet state_;
  uint32_t version_ = 0;
  Bytes whole_, difference_;
};

// Not thread-safe.
class DeltaReceiver {
 public:
  DeltaReceiver(const Codec& codec, std::shared_ptr<const ParameterLayout> layout);
  // Goes on from a saved state.
  DeltaReceiver(const Codec& codec, ParameterSet state, uint32_t version);

  // Applies a message. Throws Error, with the state as it was, when it does not decode or is the
  // difference to a version that is not held (ask for the whole state).
  void apply(std::span<const uint8_t> message);

  const ParameterSet& state() const { return state_; }
  // The version held, to be told to the server; none before the first message.
  std::optional<uint32_t> version() const { return version_; }

 private:
  const Codec& codec_;
  std::unique_ptr<Codec> identity_;
  ParameterSet state_;
  std::optional<uint32_t> version_;
};

}  // namespace espalier::codec

#pragma once

#include <memory>
#include <span>

#include "espalier/base/bytes.h"
#include "espalier/base/random.h"
#include "espalier/codec/codec.h"
#include "espalier/params/parameter_set.h"

// Error feedback: what a biased codec (topk, randomk, trellis, cast, …) loses in one message is
// made up for in later ones, so that it does not accumulate. Two forms; both keep one ParameterSet
// per sender, which is all of their state. Not thread-safe.
//
//   Ef21 (Richtárik, Sokolov, Fatkhullin 2021, algorithm 2): sender and receiver hold the same
//   estimate g of what the sender has to say. The message is C(x − g); both set g ← g + C(x − g),
//   in the same arithmetic, so that the copies stay equal to the last bit. The receiver works with
//   g. It needs C to be a contraction, E‖C(v) − v‖² ≤ (1 − α)‖v‖²: every codec declared biased is
//   (conformance_test.cpp). For many senders and one mean, the receiver needs only the mean of the
//   estimates: it grows by the mean of the decoded messages.
//
//   ResidualFeedback (Seide et al. 2014; Karimireddy et al. 2019): the sender holds the residual e.
//   The message is C(x + e), then e ← x + e − decoded. The receiver holds nothing and works with
//   the decoded messages: for uplinks where a server must not remember its clients.
namespace espalier::codec {

class Ef21 {
 public:
  // The estimate begins at zero.
  explicit Ef21(std::shared_ptr<const ParameterLayout> layout) : estimate_(std::move(layout)) {}
  // Goes on from a saved estimate.
  explicit Ef21(ParameterSet estimate) : estimate_(std::move(estimate)) {}

  // The two halves of the sender's work, for who encodes by itself: x − g, and then g ← g + what
  // the receiver decoded of it.
  ParameterSet difference(const ParameterSet& x) const;
  void add(const ParameterSet& decoded);

  // The sender: appends the message of x − g and updates g. Throws Error, with g as it was, on
  // values that the codec refuses.
  void encode(const Codec& codec, const ParameterSet& x, Key key, Bytes& out);
  // The receiver: updates g from a message. Throws Error, with g as it was, on a message that does
  // not decode.
  void decode(const Codec& codec, std::span<const uint8_t> message);

  const ParameterSet& estimate() const { return estimate_; }

 private:
  ParameterSet estimate_;
};

class ResidualFeedback {
 public:
  explicit ResidualFeedback(std::shared_ptr<const ParameterLayout> layout)
      : residual_(std::move(layout)) {}
  explicit ResidualFeedback(ParameterSet residual) : residual_(std::move(residual)) {}

  // The two halves of encode(): x + e, and then e ← wanted − decoded.
  ParameterSet wanted(const ParameterSet& x) const;
  void settle(const ParameterSet& wanted, const ParameterSet& decoded);

  // Appends the message of x + e and updates e; the receiver decodes it as any other. Throws Error,
  // with e as it was, on values that the codec refuses.
  void encode(const Codec& codec, const ParameterSet& x, Key key, Bytes& out);

  const ParameterSet& residual() const { return residual_; }

 private:
  ParameterSet residual_;
};

}  // namespace espalier::codec

#pragma once

#include <span>

#include "espalier/codec/codec.h"
#include "espalier/data/dataset.h"
#include "espalier/round/client_state.h"
#include "espalier/round/wire.h"
#include "espalier/strategy/strategy.h"
#include "espalier/train/trainer.h"

namespace espalier::round {

// What the uplink does with what its codec lost; see RunOptions::error_feedback.
enum class Feedback : uint8_t { kNone, kResidual, kEf21 };
// "auto" decided by the codec.
Feedback choose_feedback(const std::string& option, const codec::Codec& uplink);

// Everything a client works with, whatever carried the task to it.
struct ClientEnvironment {
  const strategy::Strategy& strategy;
  const codec::Codec& downlink;
  const codec::Codec& uplink;
  WireLimits limits;
  ClientStateStore* states;  // null when clients remember nothing
  DecodedBodies* decoded;    // shared by the clients of one process; may be null
  Feedback feedback = Feedback::kNone;
};

// One task from bytes to bytes: decode, restore the client's state, run the strategy's client half,
// keep the new state, encode.
EncodedMessage run_client_task(const EncodedMessage& message, const ClientEnvironment& environment,
                               train::Trainer& trainer, const data::Dataset& dataset,
                               std::span<const uint32_t> samples);

}  // namespace espalier::round

#pragma once

#include <functional>
#include <span>

#include "espalier/codec/codec.h"
#include "espalier/data/dataset.h"
#include "espalier/round/client_state.h"
#include "espalier/round/submodel_plan.h"
#include "espalier/round/wire.h"
#include "espalier/strategy/strategy.h"
#include "espalier/train/trainer.h"

namespace espalier::round {

// What the uplink does with what its codec lost; see RunOptions::error_feedback.
enum class Feedback : uint8_t { kNone, kResidual, kEf21 };
// "auto" decided by the codec and by whether what a client remembers still fits its next task: with
// sub-models of other units in every round, or a strategy that sends feature maps, it does not, and
// asking for feedback is an Error.
Feedback choose_feedback(const std::string& option, const codec::Codec& uplink,
                         const strategy::Strategy& strategy, const SubmodelOptions& submodel = {},
                         const std::vector<DeviceOptions>& devices = {});

// What updates of this kind are coded with: the run's uplink, but float32 for explorations when the
// uplink is biased. What it loses would be gone for good, as an exploration has no next round, and
// small values are what an exploration is about.
const codec::Codec& uplink_of(strategy::TaskKind kind, const codec::Codec& uplink);

// The replica that trains a task: units as in Task::units. It stays the caller's and is used until
// the task is done.
using TrainerSource = std::function<train::Trainer&(std::span<const int64_t> units)>;

// The largest payload of its own layout that a client takes: FedGKT's answers for 65,536 samples of
// 1,000 classes, or four models.
int64_t max_task_values(const ParameterLayout& model);

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

// What a client has: its training samples and, for strategies whose models only clients can
// evaluate, test samples.
struct ClientData {
  const data::Dataset& dataset;
  std::span<const uint32_t> samples;
  const data::Dataset* test = nullptr;
  std::span<const uint32_t> test_samples = {};
};

// One task from bytes to bytes: decode, restore the client's state, run the strategy's client half,
// keep the new state, encode.
EncodedMessage run_client_task(const EncodedMessage& message, const ClientEnvironment& environment,
                               const TrainerSource& trainer, const ClientData& data);

}  // namespace espalier::round

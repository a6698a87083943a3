#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/options.h"
#include "espalier/params/parameter_set.h"
#include "espalier/prune/mask.h"
#include "espalier/submodel/submodel.h"
#include "espalier/train/step_options.h"

namespace espalier::wire {

// Names that every strategy uses alike.
inline constexpr const char* kModel = "model";  // task: the weights a client starts from
inline constexpr const char* kDelta = "delta";  // update: weights after − weights before
inline constexpr const char* kStatistics = "statistics";  // update of TaskKind::kCalibrate

// How a payload's values are coded.
enum class Coding : uint8_t {
  // By the run's codec; of an update, behind the client's update stages.
  kRun,
  // Evidence, whose small values count and which no later round makes up for: by the run's codec
  // where that is unbiased and spreads what it loses, else as float32. Past the update stages.
  kFaithful,
  // As float32. Past the update stages.
  kExact
};

// Named tensors on their way to or from a client.
struct Payload {
  std::string name;
  std::shared_ptr<const ParameterSet> values;
  double weight = 1;  // updates: the weight of this payload in the round's sum
  // On the server, for a strategy that keeps updates encoded: the codec's message and what it
  // holds; `values` is null then.
  std::shared_ptr<const Bytes> encoded = nullptr;
  std::shared_ptr<const ParameterLayout> layout = nullptr;
  // On a client that goes on to encode it: `values` is null, and what they would be is after −
  // before, computed piece by piece as it is encoded. `after` are a trainer's weights, valid until
  // it is used again.
  std::shared_ptr<const ParameterSet> before = nullptr;
  std::span<const float> after = {};
  // On the server: the largest magnitude of `values`, which decoding has found. Nothing: nobody has
  // looked.
  std::optional<float> largest = std::nullopt;
  Coding coding = Coding::kRun;  // of who sends it

  // Of `values`, made or not.
  const std::shared_ptr<const ParameterLayout>& values_layout() const {
    return (values != nullptr ? values : before)->shared_layout();
  }
};

// What a client is asked for. Training changes what the client remembers. All others do not: the
// normalization statistics of the model that it receives over its samples, the exploration that a
// strategy wants before it trains, something that the client remembers, an evaluation on its test
// samples.
enum class TaskKind : uint8_t {
  kTrain = 0,
  kCalibrate = 1,
  kExplore = 2,
  kRecall = 3,
  kEvaluate = 4
};

// A mask on its way to clients: made once per change and shared by all of them.
struct TravellingMask {
  TravellingMask(prune::Mask made, uint32_t since) : mask(std::move(made)), round(since) {
    prune::encode_mask(mask, bytes);
  }
  TravellingMask(prune::Mask made, Bytes coded, uint32_t since)
      : mask(std::move(made)), bytes(std::move(coded)), round(since) {}

  prune::Mask mask;
  Bytes bytes;         // encoded
  uint32_t round = 0;  // the first whose tasks carry it: who kept a later task's has this one
};

// Which task: an update says which one it answers, so that a late one is known as such.
struct TaskId {
  uint32_t round = 0;     // 1-based
  uint32_t exchange = 0;  // within the round
  uint64_t client = 0;
  friend bool operator==(const TaskId&, const TaskId&) = default;
};

// What the server sends to one client for one round.
struct Task {
  TaskKind kind = TaskKind::kTrain;
  uint32_t round = 0;     // 1-based
  uint32_t exchange = 0;  // number of the exchange within the round
  uint64_t client = 0;
  // The round in which the client last wrote the state that this task builds on; 0: none.
  uint32_t state_version = 0;
  // Whether the client keeps what it remembers of this task, empty or not: the server will name it
  // as a version.
  bool keeps_state = false;
  // The client's half of the algorithm, by name (client/algorithm.h), and those of its options that
  // differ from their defaults (all of them, where a client's defaults may be others): truth
  // values, numbers and texts by name. A client needs no configuration of its own.
  std::string algorithm;
  Json options = Json::object();
  train::StepOptions train;  // with the round's learning rate
  // The architecture: the run's model with units[g] units in group g; empty: the whole model. The
  // payloads' values are of that size.
  std::vector<int64_t> units;
  train::SubmodelTraining submodel_training;
  // On the server: the part of the model that the client gets, when the strategy chooses it; null:
  // the run's [submodel] does. Not sent; `units` are.
  std::shared_ptr<const submodel::Submodel> submodel;
  // Over the layout of what the client gets: payloads of that layout are zero where it prunes, and
  // only the kept values travel. A client that has it already is not sent it again. Null: all.
  std::shared_ptr<const TravellingMask> mask;
  std::map<std::string, double> scalars;
  std::vector<Payload>
      payloads;  // payloads shared by all clients of a round share one ParameterSet

  TaskId id() const { return {round, exchange, client}; }
  const Payload& payload(const std::string& name) const;  // Error when it is missing
  double scalar(const std::string& name) const;           // Error when it is missing
};

// What a client returns.
struct Update {
  TaskId answers;
  double num_samples = 0;                 // of the client
  std::map<std::string, double> scalars;  // measurements and what the strategy needs
  std::vector<Payload> payloads;
  // Over the layout of the task's model: payloads of that layout are zero where it prunes, and only
  // the kept values travel. The task's own mask is not sent back. Null: all.
  std::shared_ptr<const TravellingMask> mask;
  // On the server: where in the model the payloads' values belong; null: everywhere. Not sent.
  std::shared_ptr<const submodel::Submodel> submodel;

  double scalar(const std::string& name) const;
};

// Standard scalars of an update, summed up in the metrics. Times are seconds on the client's clock.
inline constexpr const char* kTrainLoss = "train_loss";
inline constexpr const char* kTrainAccuracy = "train_accuracy";
inline constexpr const char* kSamplesSeen = "samples_seen";
inline constexpr const char* kSteps = "steps";
inline constexpr const char* kMacs = "macs";
inline constexpr const char* kTrainSeconds = "train_seconds";

}  // namespace espalier::wire

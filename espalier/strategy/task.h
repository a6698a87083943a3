#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/params/parameter_set.h"
#include "espalier/submodel/submodel.h"
#include "espalier/train/trainer.h"

namespace espalier::strategy {

// Names that every strategy uses alike.
inline constexpr const char* kModel = "model";  // task: the weights a client starts from
inline constexpr const char* kDelta = "delta";  // update: weights after − weights before
inline constexpr const char* kStatistics = "statistics";  // update of TaskKind::kCalibrate

// Named tensors on their way to or from a client. They are encoded by the run's codec, whatever
// they mean.
struct Payload {
  std::string name;
  std::shared_ptr<const ParameterSet> values;
  double weight = 1;  // updates: the weight of this payload in the round's sum
  // On the server, for a strategy that keeps updates encoded: the codec's message and what it
  // holds; `values` is null then.
  std::shared_ptr<const Bytes> encoded = nullptr;
  std::shared_ptr<const ParameterLayout> layout = nullptr;
};

// What a client is asked for: the strategy's training, or the normalization statistics of the model
// it receives over its samples.
enum class TaskKind : uint8_t { kTrain = 0, kCalibrate = 1 };

// What the server sends to one client for one round.
struct Task {
  TaskKind kind = TaskKind::kTrain;
  uint32_t round = 0;  // 1-based
  uint64_t client = 0;
  // The round in which the client last wrote the state that this task builds on; 0: none.
  uint32_t state_version = 0;
  train::TrainOptions train;  // with the round's learning rate
  // The architecture: the run's model with units[g] units in group g; empty: the whole model. The
  // payloads' values are of that size.
  std::vector<int64_t> units;
  train::SubmodelTraining submodel_training;
  std::map<std::string, double> scalars;
  std::vector<Payload>
      payloads;  // payloads shared by all clients of a round share one ParameterSet

  const Payload& payload(const std::string& name) const;  // Error when it is missing
  double scalar(const std::string& name) const;           // Error when it is missing
};

// What a client returns.
struct Update {
  double num_samples = 0;                 // of the client
  std::map<std::string, double> scalars;  // measurements and what the strategy needs
  std::vector<Payload> payloads;
  // On the server: where in the model the payloads' values belong; null: everywhere. Not sent.
  std::shared_ptr<const submodel::Submodel> submodel;

  double scalar(const std::string& name) const;
};

// What a client remembers between rounds: its half of SCAFFOLD, residuals of error feedback, kept
// local statistics.
struct ClientState {
  std::map<std::string, ParameterSet> sets;
  bool empty() const { return sets.empty(); }
};

// Standard scalars of an update, summed up in the metrics. Times are seconds on the client's clock.
inline constexpr const char* kTrainLoss = "train_loss";
inline constexpr const char* kTrainAccuracy = "train_accuracy";
inline constexpr const char* kSamplesSeen = "samples_seen";
inline constexpr const char* kSteps = "steps";
inline constexpr const char* kMacs = "macs";
inline constexpr const char* kTrainSeconds = "train_seconds";

}  // namespace espalier::strategy

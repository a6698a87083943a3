#pragma once

#include "espalier/client/local_training.h"
#include "espalier/strategy/weighting.h"

namespace espalier::strategy {

// FedAvg's client: trains the task's model and sends "delta", weights after − weights before, with
// its weight in the mean. Also the client of every strategy that only changes the server's step.
// Immutable; run() may be called by many threads, each with its own context. It remembers nothing.
class FedAvgClient : public client::ClientAlgorithm {
 public:
  // Task::algorithm.
  static constexpr const char* kName = "fedavg";
  using Options = WeightingOptions;
  explicit FedAvgClient(const Options& options) : weighting_(options) {}
  // Throws Error when the task has no model or training fails (train::Trainer::fit).
  wire::Update run(client::ClientContext& context, const wire::Task& task) const override;

 protected:
  // Trains with the hooks and weighs the update, whose only payload is "delta", after − before, of
  // the layout that the task came with (a sub-model's, if it is one); scalars are the standard ones
  // (wire/task.h). Derived halves add to it; who does not may take the change as a difference.
  wire::Update train(client::ClientContext& context, const wire::Task& task,
                     const train::FitHooks& hooks,
                     client::Change form = client::Change::kValues) const;
  // As the context takes it.
  static client::Change change_form(const client::ClientContext& context) {
    return context.takes_differences ? client::Change::kDifference : client::Change::kValues;
  }

 private:
  WeightingOptions weighting_;
};

}  // namespace espalier::strategy

#pragma once

#include <string>

#include "espalier/client/algorithm.h"
#include "espalier/prune/criteria.h"
#include "espalier/strategy/fedavg_client.h"

namespace espalier::strategy {

// What Pruning's client must know of its criterion (pruning.h).
struct PruningClientOptions : WeightingOptions {
  // A row of prune::criterion_rows().
  std::string criterion = "magnitude";
  // In [0, 1); 0 prunes nothing. Only for criteria that prune anew in every step: what others prune
  // the task's mask says.
  double sparsity = 0.5;
  // For the same criteria: all trained tensors, or weights and embeddings alone.
  std::string tensors = "all";
  // For "deviation": whether a refresh sends the squares of the change beside it.
  bool sends_squares = false;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    WeightingOptions::fields(self, visit);
    visit("criterion", self.criterion, Field("Of the strategy."));
    visit("sparsity", self.sparsity, Field("Share to prune in every step.").at_least(0).below(1));
    visit("tensors", self.tensors, Field("What may be pruned.").one_of({"all", "weights"}));
    visit("sends_squares", self.sends_squares, Field("Send deviations apart from the change."));
  }
};

// Trains under the task's mask, which is applied after every step. In a task with the scalar
// "refresh" it trains unmasked, or reports "importance" too, as the criterion needs; with
// sends_squares also "deviation". Without both it is FedAvg's client.
//
// The update is FedAvg's; under the task's mask only what it keeps is sent, in a refresh all
// values. A criterion of every step (AutoFLIP's random baseline) prunes by keys of client, round
// and step instead, and its updates are dense.
class PruningClient final : public FedAvgClient {
 public:
  static constexpr const char* kName = "pruning";
  static constexpr const char* kRefresh = "refresh";        // scalar of a task
  static constexpr const char* kImportance = "importance";  // mean squared gradient over its steps
  using Options = PruningClientOptions;
  explicit PruningClient(const Options& options)
      : FedAvgClient(options), options_(options), row_(prune::find_criterion(options.criterion)) {}
  // The mask is applied after a step and not before the first: the task's weights are pruned
  // already. Throws Error as FedAvgClient does. Any thread, many at a time.
  wire::Update run(client::ClientContext& context, const wire::Task& task) const override;

 private:
  Options options_;
  const prune::CriterionRow& row_;
};

}  // namespace espalier::strategy

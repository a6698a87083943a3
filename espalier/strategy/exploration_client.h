#pragma once

#include <cstdint>
#include <string>

#include "espalier/client/algorithm.h"
#include "espalier/prune/criteria.h"
#include "espalier/strategy/weighting.h"

namespace espalier::strategy {

// Pruning's options of these names; they travel with the task of an exploration.
struct ExplorationOptions : WeightingOptions {
  // A row of prune::criterion_rows(): decides what is sent.
  std::string criterion = "deviation";
  // At least 1. Passes over the samples that are not held out.
  int64_t exploration_epochs = 150;
  // At least 1, in epochs: it stops when that many in a row have not gone below the lowest loss.
  int64_t exploration_patience = 40;
  // In [0, 0.9]: ⌊share·n⌋ of the client's n samples, drawn from its key. 0, or a share of less
  // than one sample: the training loss decides.
  double exploration_holdout = 0.1;
  // Then "explored" is sent too, weighted by `weighting`.
  bool init_from_exploration = false;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    WeightingOptions::fields(self, visit);
    visit("criterion", self.criterion, Field("Of the strategy."));
    visit("exploration_epochs", self.exploration_epochs, Field("Epochs at most.").at_least(1));
    visit("exploration_patience", self.exploration_patience,
          Field("Epochs without a lower loss before it stops.").at_least(1));
    visit("exploration_holdout", self.exploration_holdout,
          Field("Share of the samples held out for that loss.").at_least(0).at_most(0.9));
    visit("init_from_exploration", self.init_from_exploration,
          Field("Whether the explored weights are sent too."));
  }
};

// The exploration before the first mask (pruning.h): trains from the task's weights until the loss
// has not fallen for a while. What it says of the weights it ends with is how far each has moved,
// squared (or, for importances, the mean square of each gradient on the way). AutoFLIP (Internò et
// al. 2024, arXiv 2405.10271) and PruneFL (Jiang et al. 2022).
//
// The weights at the end count, not those of the lowest loss. Steps are the task's [train]: its
// epochs do not matter, its max_steps limits every epoch, and the optimizer goes on from epoch to
// epoch. Scalars are the standard ones, of all epochs (loss and accuracy: of the last); products
// include the held-out samples' passes. Remembers nothing.
class ExplorationClient final : public client::ClientAlgorithm {
 public:
  static constexpr const char* kName = "exploration";
  static constexpr const char* kDeviation = "deviation";        // (w^k − w0)²
  static constexpr const char* kExplored = "explored";          // w^k − w0
  static constexpr const char* kEpochs = "exploration_epochs";  // scalar of the update: epochs done
  using Options = ExplorationOptions;
  explicit ExplorationClient(const Options& options)
      : options_(options), row_(prune::find_criterion(options.criterion)) {}
  // One payload as long as the model, of weight 1 and 0 for what is not trained: "deviation", or
  // "importance" where the criterion needs it. Throws Error when no sample is left to explore with
  // or training fails. Any thread, many at a time.
  wire::Update run(client::ClientContext& context, const wire::Task& task) const override;

 private:
  Options options_;
  const prune::CriterionRow& row_;
};

}  // namespace espalier::strategy

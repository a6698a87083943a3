#pragma once

#include "espalier/strategy/strategy.h"
#include "espalier/strategy/weighting.h"

namespace espalier::strategy {

// Federated Averaging (McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017): clients train from
// the global weights w and return their change; w ← w + Σ n_k Δ_k / Σ n_k. The client half is
// FedAvgClient.
//
// It is also the base of the strategies that change only one of the two halves. We differ from the
// paper in sending the change instead of the weights, which is the same sum and compresses better.
// Clients are drawn by the round loop, local work is [train]'s epochs and batch_size. No state of
// its own: nothing is saved.
class FedAvg : public Strategy {
 public:
  using Options = WeightingOptions;
  explicit FedAvg(const Options& options) : weighting_(options) {}

  Traits traits() const override { return {.plain_sums = true}; }
  void start(const ServerSetup& setup) override { layout_ = setup.layout; }
  // Names the client half with its options, and shares `global` as the payload "model".
  void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                 Task& task) override;
  // Throws Error when the mean has no weight (RoundSums::mean); `global` is then as it was.
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;

 protected:
  // Of the whole model; null before start().
  const std::shared_ptr<const ParameterLayout>& layout() const { return layout_; }

 private:
  WeightingOptions weighting_;
  std::shared_ptr<const ParameterLayout> layout_;
};

// Both take sets of one layout. A mean of −0 leaves every bit of a value (sum_rules.h).
//
// global += scale·mean for what is trained; scale ≥ 0.
void add_trained(float scale, const ParameterSet& mean, ParameterSet& global);
// global += mean for everything that is not trained by a server optimizer: statistics are averaged,
// counters are averaged and rounded to whole numbers.
void apply_untrained(const ParameterSet& mean, ParameterSet& global);

}  // namespace espalier::strategy

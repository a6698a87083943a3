#pragma once

#include "espalier/strategy/local_training.h"

namespace espalier::strategy {

// Federated Averaging (McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017): clients train from
// the global weights w and return their change; w ← w + Σ n_k Δ_k / Σ n_k.
//
// It is also the base of the strategies that only change one of the two halves. We differ from the
// paper in sending the change instead of the weights, which is the same sum and compresses better.
class FedAvg : public Strategy {
 public:
  using Options = WeightingOptions;
  explicit FedAvg(const Options& options) : weighting_(options) {}

  void start(const ServerSetup& setup) override { layout_ = setup.layout; }
  void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                 Task& task) override;
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;
  Update run_client(ClientContext& context, const Task& task) const override;

 protected:
  const std::shared_ptr<const ParameterLayout>& layout() const { return layout_; }
  const WeightingOptions& weighting() const { return weighting_; }

 private:
  WeightingOptions weighting_;
  std::shared_ptr<const ParameterLayout> layout_;
};

}  // namespace espalier::strategy

#pragma once

#include "espalier/strategy/fedavg.h"

namespace espalier::strategy {

struct FedNovaOptions : WeightingOptions {
  // On τ_eff Σ p_k d_k, above 0; 1 is the paper's rule. Statistics are averaged without it.
  double server_lr = 1.0;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    WeightingOptions::fields(self, visit);
    visit("server_lr", self.server_lr, Field("Factor on the normalized mean change.").above(0));
  }
};

// FedNova (Wang, Liu, Liang, Joshi, Poor 2020): a client that took more steps must not pull harder.
// With the accumulation vector a_k of its optimizer (eq. 4 and section 4; momentum ρ: a_k,i = (1 −
// ρ^(τ−i))/(1 − ρ), plain SGD: all ones), the client returns d_k = Δ_k/‖a_k‖₁ and the server
// applies w ← w + τ_eff Σ p_k d_k with τ_eff = Σ p_k ‖a_k‖₁.
//
// Meant for SGD clients with or without momentum (not Nesterov). p_k follows `weighting`, over the
// clients of the round that answered; τ_eff is theirs, also for values that only some of them hold
// (sub-models). Clients of equal work give FedAvg's step times server_lr, but for rounding. No
// state of its own.
class FedNova : public FedAvg {
 public:
  using Options = FedNovaOptions;
  explicit FedNova(const Options& options) : FedAvg(options), server_lr_(options.server_lr) {}
  Traits traits() const override { return {}; }  // accumulate() looks at each update
  // Throws Error for a client optimizer that is not SGD, or Nesterov's momentum.
  void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                 Task& task) override;
  // Throws Error for a normalizer that the stated steps cannot give: it is between 0 and weight ·
  // steps/(1 − ρ), of at most 10^9 steps.
  void accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                  RoundSums& sums) override;
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;

 private:
  double server_lr_;
};

}  // namespace espalier::strategy

#pragma once

#include "espalier/strategy/fedavg.h"

// Server optimizers treat the mean change Δ of a round as a pseudo-gradient −Δ. Statistics and
// counters are averaged as usual. The client half is FedAvg's. All arithmetic is elementwise in
// float32, on the round's thread; the state (one or two sets as long as the model) is part of the
// checkpoint, and load() throws Error for one of another size.
//
// A value that no client of the round trained does not move (round/round_loop.cpp keeps its bits
// when all clients train sub-models), but its moments decay.
namespace espalier::strategy {

// None of it travels: clients know `weighting` alone.
struct FedAvgMOptions : WeightingOptions {
  double server_lr = 1.0;        // η, above 0
  double server_momentum = 0.9;  // β, in [0, 1); 0: FedAvg, times η
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    WeightingOptions::fields(self, visit);
    visit("server_lr", self.server_lr, Field("Server learning rate.").above(0));
    visit("server_momentum", self.server_momentum,
          Field("Server momentum; 0 is FedAvg.").at_least(0).below(1));
  }
};

// FedAvgM (Hsu, Qi, Brown 2019): v ← βv + Δ; w ← w + ηv. v starts at 0; the paper's rule is η = 1.
// A steady Δ moves w by η/(1 − β)·Δ in each round in the end.
class FedAvgM : public FedAvg {
 public:
  using Options = FedAvgMOptions;
  explicit FedAvgM(const Options& options) : FedAvg(options), options_(options) {}
  void start(const ServerSetup& setup) override;
  // Throws Error, with v and `global` as they were, when the mean has no weight.
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;
  void save(ByteWriter& out) const override { write_values(velocity_, out); }
  void load(ByteReader& in) override { read_values(in, velocity_); }

 private:
  Options options_;
  ParameterSet velocity_;  // v; empty before start()
};

// Of both FedAdam and FedYogi. A good η depends on model and data: look for it by decades.
struct FedAdamOptions : WeightingOptions {
  double server_lr = 0.01;  // η, above 0
  // β₁ and β₂, in [0, 1); 0: Adam's moment is that of this round alone.
  double server_beta1 = 0.9, server_beta2 = 0.99;
  double tau = 1e-3;  // τ, above 0; smaller is more adaptive
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    WeightingOptions::fields(self, visit);
    visit("server_lr", self.server_lr, Field("Server learning rate η.").above(0));
    visit("server_beta1", self.server_beta1,
          Field("Decay of the first moment.").at_least(0).below(1));
    visit("server_beta2", self.server_beta2,
          Field("Decay of the second moment.").at_least(0).below(1));
    visit("tau", self.tau, Field("Degree of adaptivity τ, added to the root.").above(0));
  }
};

// FedAdam and FedYogi (Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan 2021,
// algorithm 2):
//   m ← β₁m + (1−β₁)Δ;  Adam: v ← β₂v + (1−β₂)Δ²;  Yogi: v ← v − (1−β₂)Δ²·sign(v − Δ²);  w ← w +
//   η·m/(√v + τ).
// As in the paper there is no bias correction, and v starts at τ². We differ in weighting Δ by
// samples by default (`weighting = "uniform"` is the paper's mean), and a v that rounding takes
// below 0 counts as 0 under the root.
class FedAdam : public FedAvg {
 public:
  using Options = FedAdamOptions;
  explicit FedAdam(const Options& options) : FedAdam(options, false) {}
  void start(const ServerSetup& setup) override;
  // Throws Error, with m, v and `global` as they were, when the mean has no weight.
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;

 protected:
  FedAdam(const Options& options, bool yogi) : FedAvg(options), options_(options), yogi_(yogi) {}

 private:
  Options options_;
  bool yogi_;                    // which rule v follows
  ParameterSet first_, second_;  // m and v; empty before start()
};

// With v moving by (1 − β₂)Δ² at most, the effective learning rate does not jump after a round of
// small changes. Its options are FedAdam's.
class FedYogi : public FedAdam {
 public:
  explicit FedYogi(const Options& options) : FedAdam(options, true) {}
};

}  // namespace espalier::strategy

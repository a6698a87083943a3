#pragma once

#include "espalier/strategy/fedavg.h"

// Server optimizers treat the mean change Δ of a round as a pseudo-gradient −Δ. Statistics and
// counters are averaged as usual.
namespace espalier::strategy {

struct FedAvgMOptions : WeightingOptions {
  double server_lr = 1.0;
  double server_momentum = 0.9;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    WeightingOptions::fields(self, visit);
    visit("server_lr", self.server_lr, Field("Server learning rate.").above(0));
    visit("server_momentum", self.server_momentum,
          Field("Server momentum; 0 is FedAvg.").at_least(0).below(1));
  }
};

// FedAvgM (Hsu, Qi, Brown 2019): v ← βv + Δ; w ← w + ηv.
class FedAvgM : public FedAvg {
 public:
  using Options = FedAvgMOptions;
  explicit FedAvgM(const Options& options) : FedAvg(options), options_(options) {}
  void start(const ServerSetup& setup) override;
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;
  void save(ByteWriter& out) const override { write_values(velocity_, out); }
  void load(ByteReader& in) override { read_values(in, velocity_); }

 private:
  Options options_;
  ParameterSet velocity_;
};

struct FedAdamOptions : WeightingOptions {
  double server_lr = 0.01;
  double server_beta1 = 0.9, server_beta2 = 0.99;
  double tau = 1e-3;
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
// As in the paper there is no bias correction, and v starts at τ².
class FedAdam : public FedAvg {
 public:
  using Options = FedAdamOptions;
  explicit FedAdam(const Options& options) : FedAdam(options, false) {}
  void start(const ServerSetup& setup) override;
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;

 protected:
  FedAdam(const Options& options, bool yogi) : FedAvg(options), options_(options), yogi_(yogi) {}

 private:
  Options options_;
  bool yogi_;
  ParameterSet first_, second_;
};

class FedYogi : public FedAdam {
 public:
  explicit FedYogi(const Options& options) : FedAdam(options, true) {}
};

}  // namespace espalier::strategy

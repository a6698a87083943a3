#pragma once

#include "espalier/strategy/fedavg.h"

namespace espalier::strategy {

struct FedProxOptions : WeightingOptions {
  double mu = 0.01;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    WeightingOptions::fields(self, visit);
    visit("mu", self.mu, Field("Weight of the proximal term; 0 is FedAvg.").at_least(0));
  }
};

// FedProx (Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020): clients minimize F_k(w) + (μ/2)‖w −
// w_t‖² (eq. 2), so every gradient gains μ(w − w_t). The server averages as FedAvg does. Partial
// work of stragglers is expressed by `train.max_steps`.
class FedProx : public FedAvg {
 public:
  using Options = FedProxOptions;
  explicit FedProx(const Options& options) : FedAvg(options), mu_(options.mu) {}
  void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                 Task& task) override;
  Update run_client(ClientContext& context, const Task& task) const override;

 private:
  double mu_;
};

}  // namespace espalier::strategy

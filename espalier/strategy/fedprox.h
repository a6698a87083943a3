#pragma once

#include "espalier/strategy/fedavg.h"
#include "espalier/strategy/fedprox_client.h"

namespace espalier::strategy {

// FedProx (Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020): clients minimize F_k(w) + (μ/2)‖w −
// w_t‖² (eq. 2), so every gradient gains μ(w − w_t). The server averages as FedAvg does. Partial
// work of stragglers is expressed by `train.max_steps`.
//
// We differ from the paper in weighting by samples (by default) instead of drawing clients with
// probabilities n_k/n and averaging uniformly, and in a μ that no heuristic changes during the run.
class FedProx : public FedAvg {
 public:
  using Options = FedProxOptions;
  explicit FedProx(const Options& options) : FedAvg(options), options_(options) {}
  // As FedAvg's, with the client half that adds the term.
  void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                 Task& task) override;

 private:
  Options options_;
};

}  // namespace espalier::strategy

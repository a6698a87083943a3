#pragma once

#include "espalier/strategy/fedavg_client.h"

namespace espalier::strategy {

// The server's and the client's alike: what differs from the defaults travels with every task, so
// a client needs no configuration of its own.
struct FedProxOptions : WeightingOptions {
  // μ ≥ 0, constant over the run; 0 trains as FedAvg does. The paper's experiments choose it among
  // 0.001, 0.01, 0.1 and 1, by data set.
  double mu = 0.01;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    WeightingOptions::fields(self, visit);
    visit("mu", self.mu, Field("Weight of the proximal term; 0 is FedAvg.").at_least(0));
  }
};

// FedProx's client (fedprox.h): every gradient gains μ(w − w_t). w_t are the weights as the task
// brought them, what the downlink lost included. The term joins the gradient after clip_norm and
// before momentum or Adam, and only for what is trained: statistics and counters are left alone.
class FedProxClient final : public FedAvgClient {
 public:
  static constexpr const char* kName = "fedprox";
  using Options = FedProxOptions;
  explicit FedProxClient(const Options& options) : FedAvgClient(options), mu_(options.mu) {}
  // The task's payload "model" is the anchor w_t; it stays shared and is not copied. Throws Error
  // as FedAvgClient does. Any thread, many at a time.
  wire::Update run(client::ClientContext& context, const wire::Task& task) const override;

 private:
  double mu_;  // as float in the gradient
};

}  // namespace espalier::strategy

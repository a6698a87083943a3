#pragma once

#include "espalier/strategy/fedavg_client.h"

namespace espalier::strategy {

// FedNova's client (fednova.h): sends d_k = Δ_k/‖a_k‖₁ and, as scalars, p_k ‖a_k‖₁ and p_k. Here
// p_k is the client's weight, not divided by the weights' sum: the server does that. Statistics and
// counters are sent as they are, not divided. Remembers nothing.
class FedNovaClient final : public FedAvgClient {
 public:
  static constexpr const char* kName = "fednova";
  static constexpr const char* kNormalizer = "normalizer";  // ‖a_k‖₁ times the client's weight
  static constexpr const char* kWeight = "normalizer_weight";  // the client's weight
  using Options = WeightingOptions;
  explicit FedNovaClient(const Options& options) : FedAvgClient(options) {}
  wire::Update run(client::ClientContext& context, const wire::Task& task) const override;
};

// ‖a‖₁ of `steps` ≥ 0 SGD steps with momentum ρ in [0, 1): Σ_{i<τ} (1 − ρ^(τ−i))/(1 − ρ), in closed
// form. `steps` itself without momentum; never more than steps/(1 − ρ).
double accumulated_steps(double steps, double momentum);

}  // namespace espalier::strategy

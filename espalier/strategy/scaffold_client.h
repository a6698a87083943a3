#pragma once

#include "espalier/strategy/fedavg_client.h"

namespace espalier::strategy {

// SCAFFOLD's client (scaffold.h): corrects every gradient by c − c_k and keeps c_k as its state,
// "control", as long as the model; c_k = 0 before the client's first round. The correction joins
// the gradient after clip_norm, for what is trained alone; K counts the steps that were done, so
// max_steps may cut them short.
class ScaffoldClient final : public FedAvgClient {
 public:
  static constexpr const char* kName = "scaffold";
  static constexpr const char* kControl = "control";             // task: c; state: c_k
  static constexpr const char* kControlDelta = "control_delta";  // update: c_k⁺ − c_k
  using Options = WeightingOptions;
  explicit ScaffoldClient(const Options& options) : FedAvgClient(options) {}
  // Throws Error when c or the stored c_k is not of the model's layout; c_k then stays.
  wire::Update run(client::ClientContext& context, const wire::Task& task) const override;
};

}  // namespace espalier::strategy

#include "espalier/strategy/fedprox_client.h"

namespace espalier::strategy {

wire::Update FedProxClient::run(client::ClientContext& context, const wire::Task& task) const {
  const auto mu = static_cast<float>(mu_);
  const ParameterSet& anchor = *task.payload(wire::kModel).values;
  train::FitHooks hooks;
  hooks.before_step = [&](std::span<const float> weights, std::span<float> gradients) {
    for_trainable(anchor.layout(), [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) gradients[i] += mu * (weights[i] - anchor.values()[i]);
    });
  };
  return train(context, task, hooks, change_form(context));
}

}  // namespace espalier::strategy

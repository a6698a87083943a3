#include "espalier/strategy/fedprox.h"

namespace espalier::strategy {

void FedProx::configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                        Task& task) {
  FedAvg::configure(round, global, task);
  task.scalars["mu"] = mu_;  // travels, so that a device needs no configuration of its own
}

Update FedProx::run_client(ClientContext& context, const Task& task) const {
  const auto mu = static_cast<float>(task.scalar("mu"));
  const ParameterSet& anchor = *task.payload(kModel).values;
  train::FitHooks hooks;
  hooks.before_step = [&](std::span<const float> weights, std::span<float> gradients) {
    for_trainable(anchor.layout(), [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) gradients[i] += mu * (weights[i] - anchor.values()[i]);
    });
  };
  Update update = train_locally(context, task, hooks);
  update.payloads[0].weight = weighting().weight(update.num_samples);
  return update;
}

}  // namespace espalier::strategy

#include "espalier/strategy/fednova_client.h"

#include <cmath>

namespace espalier::strategy {

double accumulated_steps(double steps, double momentum) {
  // Σ_{i=0}^{τ−1} (1 − ρ^{τ−i})/(1 − ρ) = (τ − ρ(1 − ρ^τ)/(1 − ρ))/(1 − ρ).
  return (steps - momentum * (1 - std::pow(momentum, steps)) / (1 - momentum)) / (1 - momentum);
}

wire::Update FedNovaClient::run(client::ClientContext& context, const wire::Task& task) const {
  wire::Update update = train(context, task, {});
  const double normalizer = accumulated_steps(update.scalar(wire::kSteps), task.train.momentum);
  const double weight = update.payloads[0].weight;
  auto normalized = std::make_shared<ParameterSet>(*update.payloads[0].values);
  // Only what is trained is normalized; running statistics stay a plain mean.
  const auto factor = static_cast<float>(normalizer > 0 ? 1.0 / normalizer : 0.0);
  for_trainable(normalized->layout(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) normalized->values()[i] *= factor;
  });
  update.payloads[0].values = std::move(normalized);
  update.scalars[kNormalizer] = normalizer * weight;
  update.scalars[kWeight] = weight;
  return update;
}

}  // namespace espalier::strategy

#include "espalier/strategy/fednova.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"

namespace espalier::strategy {

namespace {
constexpr const char* kNormalizer = "normalizer";  // ‖a_k‖₁ times the client's weight
constexpr const char* kWeight = "normalizer_weight";
}  // namespace

double accumulated_steps(double steps, double momentum) {
  // Σ_{i=0}^{τ−1} (1 − ρ^{τ−i})/(1 − ρ) = (τ − ρ(1 − ρ^τ)/(1 − ρ))/(1 − ρ).
  return (steps - momentum * (1 - std::pow(momentum, steps)) / (1 - momentum)) / (1 - momentum);
}

void FedNova::configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                        Task& task) {
  if (task.train.optimizer != "sgd" || task.train.nesterov) {
    fail("strategy/fednova",
         "expected train.optimizer = \"sgd\" without nesterov: its normalization is defined for "
         "SGD and momentum");
  }
  FedAvg::configure(round, global, task);
}

Update FedNova::run_client(ClientContext& context, const Task& task) const {
  Update update = train_locally(context, task, {});
  const double normalizer = accumulated_steps(update.scalar(kSteps), task.train.momentum);
  const double weight = weighting().weight(update.num_samples);
  auto normalized = std::make_shared<ParameterSet>(*update.payloads[0].values);
  // Only what is trained is normalized; running statistics stay a plain mean.
  const auto factor = static_cast<float>(normalizer > 0 ? 1.0 / normalizer : 0.0);
  for_trainable(normalized->layout(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) normalized->values()[i] *= factor;
  });
  update.payloads[0] = {kDelta, std::move(normalized), weight};
  update.scalars[kNormalizer] = normalizer * weight;
  update.scalars[kWeight] = weight;
  return update;
}

void FedNova::accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                         RoundSums& sums) {
  // A step counts 1/(1 − ρ) at most; nobody does more of them than it says, nor an absurd number.
  const double weight = update.scalar(kWeight), steps = update.scalar(kSteps);
  const double limit = weight * steps / (1 - round.train.momentum) * (1 + 1e-9);
  if (!(weight >= 0 && weight <= std::max(1.0, update.num_samples)) ||
      !(steps >= 0 && steps <= 1e9) ||
      !(update.scalar(kNormalizer) >= 0 && update.scalar(kNormalizer) <= limit)) {
    fail("strategy/fednova", "the normalizer ", update.scalar(kNormalizer), " does not fit ", steps,
         " steps (client ", client, ")");
  }
  FedAvg::accumulate(round, client, update, sums);
}

void FedNova::finish(const RoundInfo&, const RoundSums& sums, ParameterSet& global) {
  const ParameterSet mean = sums.mean(kDelta, layout());
  const double effective_steps = sums.sum(kNormalizer) / sums.sum(kWeight);
  const auto factor = static_cast<float>(server_lr_ * effective_steps);
  for_trainable(global.layout(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) global.values()[i] += factor * mean.values()[i];
  });
  apply_untrained(mean, global);
}

}  // namespace espalier::strategy

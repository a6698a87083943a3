#include "espalier/strategy/fednova.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/strategy/fednova_client.h"

namespace espalier::strategy {

void FedNova::configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                        Task& task) {
  if (task.train.optimizer != "sgd" || task.train.nesterov) {
    fail("strategy/fednova",
         "expected train.optimizer = \"sgd\" without nesterov: its normalization is defined for "
         "SGD and momentum");
  }
  FedAvg::configure(round, global, task);
  task.algorithm = FedNovaClient::kName;
}

void FedNova::accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                         RoundSums& sums) {
  // A step counts 1/(1 − ρ) at most; nobody does more of them than it says, nor an absurd number.
  const double weight = update.scalar(FedNovaClient::kWeight), steps = update.scalar(kSteps);
  const double limit = weight * steps / (1 - round.train.momentum) * (1 + 1e-9);
  if (!(weight >= 0 && weight <= std::max(1.0, update.num_samples)) ||
      !(steps >= 0 && steps <= 1e9) ||
      !(update.scalar(FedNovaClient::kNormalizer) >= 0 &&
        update.scalar(FedNovaClient::kNormalizer) <= limit)) {
    fail("strategy/fednova", "the normalizer ", update.scalar(FedNovaClient::kNormalizer),
         " does not fit ", steps, " steps (client ", client, ")");
  }
  FedAvg::accumulate(round, client, update, sums);
}

void FedNova::finish(const RoundInfo&, const RoundSums& sums, ParameterSet& global) {
  const ParameterSet mean = sums.mean(kDelta, layout());
  const double effective_steps =
      sums.sum(FedNovaClient::kNormalizer) / sums.sum(FedNovaClient::kWeight);
  const auto factor = static_cast<float>(server_lr_ * effective_steps);
  add_trained(factor, mean, global);
  apply_untrained(mean, global);
}

}  // namespace espalier::strategy

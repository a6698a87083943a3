#include "espalier/strategy/fedavg.h"

#include <cmath>

#include "espalier/strategy/fedavg_client.h"

namespace espalier::strategy {

void FedAvg::configure(const RoundInfo&, const std::shared_ptr<const ParameterSet>& global,
                       Task& task) {
  task.algorithm = FedAvgClient::kName;
  task.options = changed_options<FedAvgClient::Options>(weighting_);
  task.payloads.push_back({kModel, global, 1});
}

void FedAvg::finish(const RoundInfo&, const RoundSums& sums, ParameterSet& global) {
  const ParameterSet mean = sums.mean(kDelta, layout_);
  add_trained(1.0f, mean, global);
  apply_untrained(mean, global);
}

void add_trained(float scale, const ParameterSet& mean, ParameterSet& global) {
  for_trainable(global.layout(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) global.values()[i] += scale * mean.values()[i];
  });
}

void apply_untrained(const ParameterSet& mean, ParameterSet& global) {
  for (const ParameterInfo& tensor : global.layout().tensors()) {
    if (is_trainable(tensor.role)) continue;
    const auto change = mean.values(tensor);
    const auto value = global.values(tensor);
    for (size_t i = 0; i < value.size(); ++i) {
      value[i] += change[i];
      if (tensor.role == Role::kCounter) value[i] = std::round(value[i]);
    }
  }
}

}  // namespace espalier::strategy

#include "espalier/strategy/fedavg.h"

namespace espalier::strategy {

void FedAvg::configure(const RoundInfo&, const std::shared_ptr<const ParameterSet>& global,
                       Task& task) {
  task.payloads.push_back({kModel, global, 1});
}

void FedAvg::finish(const RoundInfo&, const RoundSums& sums, ParameterSet& global) {
  const ParameterSet mean = sums.mean(kDelta, layout_);
  for_trainable(global.layout(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) global.values()[i] += mean.values()[i];
  });
  apply_untrained(mean, global);
}

Update FedAvg::run_client(ClientContext& context, const Task& task) const {
  Update update = train_locally(context, task, {});
  update.payloads[0].weight = weighting_.weight(update.num_samples);
  return update;
}

}  // namespace espalier::strategy

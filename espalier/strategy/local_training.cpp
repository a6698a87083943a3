#include "espalier/strategy/local_training.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/clock.h"

namespace espalier::strategy {

Update train_locally(ClientContext& context, const Task& task, const train::FitHooks& hooks) {
  const ParameterSet& before = *task.payload(kModel).values;
  const double started = thread_cpu_seconds();
  context.trainer.load(before);
  train::FitHooks all = hooks;
  if (!(task.submodel_training == train::SubmodelTraining{}))
    all.submodel = &task.submodel_training;
  const train::FitResult fit =
      context.trainer.fit(context.dataset, context.samples, task.train, all, context.key);
  auto delta = std::make_shared<ParameterSet>(before.shared_layout());
  context.trainer.store(*delta);
  subtract(delta->values(), before.values(), delta->values());
  // A counter of steps may outgrow what sums exactly; its exact value matters to nobody.
  for (const ParameterInfo& tensor : delta->layout().tensors()) {
    if (tensor.role != Role::kCounter) continue;
    for (float& value : delta->values(tensor)) value = std::min(value, ExactAccumulator::kMaxValue);
  }

  Update update;
  update.num_samples = static_cast<double>(context.samples.size());
  update.scalars[kTrainLoss] = fit.loss;
  update.scalars[kTrainAccuracy] = fit.accuracy;
  update.scalars[kSteps] = static_cast<double>(fit.steps);
  update.scalars[kSamplesSeen] = static_cast<double>(fit.samples);
  update.scalars[kMacs] = static_cast<double>(fit.macs);
  update.scalars[kTrainSeconds] = thread_cpu_seconds() - started;
  update.payloads.push_back({kDelta, std::move(delta), 1});
  return update;
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

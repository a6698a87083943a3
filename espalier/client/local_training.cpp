#include "espalier/client/local_training.h"

#include <algorithm>
#include <cmath>

#include "espalier/params/exact_sum.h"

namespace espalier::client {

void Measured::report(const train::FitResult& fit, double macs, double num_samples,
                      wire::Update& update) const {
  update.num_samples = num_samples;
  // Not a number: nobody has told (train/foreign_trainer.h).
  if (!std::isnan(fit.loss)) update.scalars[wire::kTrainLoss] = fit.loss;
  if (!std::isnan(fit.accuracy)) update.scalars[wire::kTrainAccuracy] = fit.accuracy;
  update.scalars[wire::kSteps] = static_cast<double>(fit.steps);
  update.scalars[wire::kSamplesSeen] = static_cast<double>(fit.samples);
  update.scalars[wire::kMacs] = macs;
  update.scalars[wire::kTrainSeconds] = thread_cpu_seconds() - started_;
}

std::shared_ptr<ParameterSet> change_since(const ParameterSet& before, train::Trainer& trainer) {
  auto change = std::make_shared<ParameterSet>(ParameterSet::unset(before.shared_layout()));
  std::span<const float> after = trainer.weights();
  if (after.empty()) {
    trainer.store(*change);
    after = change->values();
  }
  subtract(after, before.values(), change->values());
  return change;
}

wire::Update train_locally(ClientContext& context, const wire::Task& task,
                           const train::FitHooks& hooks, Change form) {
  const auto& before = task.payload(wire::kModel).values;
  const Measured measured;
  context.trainer.load_shared(before);
  train::FitHooks all = hooks;
  if (!(task.submodel_training == train::SubmodelTraining{}))
    all.submodel = &task.submodel_training;
  const train::FitResult fit =
      context.trainer.fit(context.dataset, context.samples, task.train, all, context.key);
  wire::Update update;
  wire::Payload& change = update.payloads.emplace_back();
  change.name = wire::kDelta;
  if (form == Change::kDifference) change.after = context.trainer.weights();
  if (change.after.empty()) {
    change.values = change_since(*before, context.trainer);
  } else {
    change.before = before;
  }
  measured.report(fit, static_cast<double>(fit.macs), static_cast<double>(context.samples.size()),
                  update);
  return update;
}

}  // namespace espalier::client

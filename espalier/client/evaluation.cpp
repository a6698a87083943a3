#include "espalier/client/evaluation.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/clock.h"

namespace espalier::client {

wire::Update Evaluation::run(ClientContext& context, const wire::Task& task) const {
  constexpr size_t kBatch = 100;  // losses are added batch by batch: the same for every client
  const double started = thread_cpu_seconds();
  context.trainer.load(*task.payload(wire::kModel).values);
  train::EvalSums sums;
  if (context.test != nullptr) {
    sums = context.trainer.evaluate_all(*context.test, context.test_samples, kBatch);
  }
  wire::Update update;
  update.num_samples = static_cast<double>(context.samples.size());
  // A model may be finite and its loss not; then there is no number to send.
  if (std::isfinite(sums.loss)) update.scalars[kLoss] = sums.loss;
  update.scalars[kCorrect] = static_cast<double>(sums.correct);
  update.scalars[kCount] = static_cast<double>(sums.count);
  update.scalars[wire::kMacs] = static_cast<double>(sums.macs);
  update.scalars[wire::kTrainSeconds] = thread_cpu_seconds() - started;
  return update;
}

}  // namespace espalier::client

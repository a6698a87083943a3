#include "espalier/client/statistics.h"

#include "espalier/base/clock.h"

namespace espalier::client {

wire::Update Statistics::run(ClientContext& context, const wire::Task& task) const {
  const double started = thread_cpu_seconds();
  context.trainer.load(*task.payload(wire::kModel).values);
  wire::Update update;
  update.num_samples = static_cast<double>(context.samples.size());
  train::NormStatistics found = context.trainer.statistics(
      context.dataset, context.samples, static_cast<size_t>(task.train.batch_size));
  update.scalars[wire::kMacs] = static_cast<double>(found.macs);
  update.payloads.push_back({wire::kStatistics,
                             std::make_shared<ParameterSet>(std::move(found.values)),
                             update.num_samples});
  update.scalars[wire::kTrainSeconds] = thread_cpu_seconds() - started;
  return update;
}

}  // namespace espalier::client

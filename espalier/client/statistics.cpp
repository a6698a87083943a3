#include "espalier/client/statistics.h"

#include "espalier/base/clock.h"

namespace espalier::client {

wire::Update Statistics::run(ClientContext& context, const wire::Task& task) const {
  const double started = thread_cpu_seconds();
  context.trainer.load(*task.payload(wire::kModel).values);
  wire::Update update;
  update.num_samples = static_cast<double>(context.samples.size());
  update.payloads.push_back(
      {wire::kStatistics,
       std::make_shared<ParameterSet>(context.trainer.statistics(
           context.dataset, context.samples, static_cast<size_t>(task.train.batch_size))),
       update.num_samples});
  // Two passes per batch, forward and backward.
  update.scalars[wire::kMacs] =
      6.0 * static_cast<double>(context.trainer.macs_per_sample()) * update.num_samples;
  update.scalars[wire::kTrainSeconds] = thread_cpu_seconds() - started;
  return update;
}

}  // namespace espalier::client

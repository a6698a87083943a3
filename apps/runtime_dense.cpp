#include "apps/runtimes.h"
#include "espalier/base/clock.h"
#include "espalier/base/thread_pool.h"
#include "espalier/strategy/strategy.h"

namespace espalier::apps {

namespace {

train::EvalSums evaluate_model(const SavedModel& model, train::Trainer& trainer) {
  // A strategy whose model has parts of its own knows how they work together.
  const round::RunConfig& config = model.config;
  const auto strategy = round::make_strategy(config);
  if (strategy->keeps_encoded()) {
    const auto uplink = codec::make_codec(config.uplink, "uplink");
    strategy::ServerSetup setup;
    setup.layout = trainer.layout();
    const Key seed(static_cast<uint64_t>(config.run.seed));
    setup.num_clients =
        data::make_partition(config.partition, *model.data.train, seed.child(Purpose::kPartition))
            ->num_clients();
    setup.model = config.model;
    setup.data = model.spec;
    setup.train = config.train;
    setup.uplink = uplink.get();
    setup.num_threads = available_processors();
    strategy->start(setup);
    if (const auto sums = strategy->evaluate_saved({model.file, model.data, trainer})) return *sums;
  }
  ParameterSet weights(trainer.layout());
  read_parameters(model.file, weights);
  trainer.load(weights);
  return evaluate_test(model, trainer);
}

}  // namespace

Json evaluate_dense(const SavedModel& model) {
  const auto trainer = make_trainer(model);
  const Stopwatch time;
  const train::EvalSums sums = evaluate_model(model, *trainer);
  const double seconds = time.seconds();
  if (sums.count == 0) fail("evaluate", "there are no test samples to evaluate on");
  const double count = static_cast<double>(sums.count);
  return {{"model", model.config.model.name},
          {"samples", sums.count},
          {"accuracy", static_cast<double>(sums.correct) / count},
          {"loss", sums.loss / count},
          {"parameters", trainer->layout()->num_trainable()},
          {"macs_per_sample", trainer->macs_per_sample()},
          {"seconds", seconds},
          {"samples_per_second", count / seconds}};
}

}  // namespace espalier::apps

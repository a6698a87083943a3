#include "espalier/base/clock.h"
#include "espalier/base/thread_pool.h"
#include "espalier/models/make_trainer.h"
#include "espalier/run/class_figures.h"
#include "espalier/run/runtimes.h"
#include "espalier/run/sources.h"
#include "espalier/strategy/strategy.h"

namespace espalier::run {

namespace {

strategy::SavedEvaluation evaluate_model(const TrainedModel& model, train::Trainer& trainer) {
  // A strategy whose model has parts of its own knows how they work together.
  const RunConfig& config = model.config;
  const auto strategy = make_strategy(config);
  if (strategy::OwnModel* own = strategy->capabilities().own_model; own != nullptr) {
    const auto uplink = codec::make_codec(config.uplink, "uplink");
    const auto partition = divide(config, model.data);
    strategy->start({.layout = trainer.layout(),
                     .num_clients = partition->num_clients(),
                     .model = config.model,
                     .data = model.spec,
                     .train = config.train.step,
                     .uplink = uplink.get(),
                     .num_threads = available_processors()});
    return own->evaluate_saved({model.file, model.data, trainer});
  }
  ParameterSet weights(trainer.layout());
  train::read_weights(model.file, trainer.fixed(), weights);
  trainer.load(weights);
  return {.sums = evaluate_test(model, trainer), .note = {}};
}

}  // namespace

Json evaluate_dense(const TrainedModel& model) {
  const auto trainer = make_trainer(model);
  const Stopwatch time;
  const strategy::SavedEvaluation found = evaluate_model(model, *trainer);
  const train::EvalSums& sums = found.sums;
  const double seconds = time.seconds();
  if (sums.count == 0) fail("evaluate", "there are no test samples to evaluate on");
  const double count = static_cast<double>(sums.count);
  Json out = {{"model", model.config.model.name},
              {"samples", sums.count},
              {"accuracy", static_cast<double>(sums.correct) / count},
              {"loss", sums.loss / count}};
  add_class_figures(sums.classes, "", out);
  out["parameters"] = trainer->layout()->num_trainable();
  out["macs_per_sample"] = trainer->macs_per_sample();
  if (found.server_macs_per_sample > 0) {
    // Of the clients' net above; the server's as well makes the accuracy.
    out["server_parameters"] = found.server_parameters;
    out["server_macs_per_sample"] = found.server_macs_per_sample;
  }
  if (!found.note.empty()) out["note"] = found.note;
  out["seconds"] = seconds;
  out["samples_per_second"] = count / seconds;
  return out;
}

}  // namespace espalier::run

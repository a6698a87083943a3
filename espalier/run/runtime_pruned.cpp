#include "espalier/run/runtime_pruned.h"

#include <numeric>

#include "espalier/base/error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/prune/structure.h"
#include "espalier/run/model_checks.h"
#include "espalier/run/runtime_measure.h"

namespace espalier::run {

namespace {

constexpr double kTolerance = 1e-4;  // of the largest logit
constexpr double kRounding = 1e-6;   // of logits that are all but 0

int64_t total(const std::vector<int64_t>& units) {
  return std::accumulate(units.begin(), units.end(), int64_t{0});
}

std::unique_ptr<train::Trainer> load(std::unique_ptr<train::Trainer> trainer,
                                     const ParameterSet& weights) {
  trainer->load(weights);
  return trainer;
}

// Both networks as functions: in fp32 on the CPU, whatever the configuration computes in.
LogitDifference check_agreement(const TrainedModel& model, const PrunedModel& pruned) {
  const run::RunConfig& config = model.config;
  const bool plain =
      config.train.hardware.precision == "fp32" && config.train.hardware.device == "cpu";
  if (plain) return compare_logits(model, *pruned.whole, *pruned.smaller);
  const auto whole = load(models::make_trainer(config.model, model.spec, {}), pruned.dense);
  const auto smaller =
      load(models::make_trainer(config.model, model.spec, {}, pruned.units), pruned.pruned);
  return compare_logits(model, *whole, *smaller);
}

}  // namespace

PrunedModel prune_model(const TrainedModel& model) {
  const run::RunConfig& config = model.config;
  PrunedModel out;
  out.whole = make_trainer(model);
  out.dense = read_weights(model, *out.whole);
  out.whole->load(out.dense);
  const ParameterLayout& layout = out.dense.layout();
  if (layout.groups().empty()) {
    throw NotPrunable(concat("[runtime/pruned] model '", config.model.name,
                             "' has no units that can be removed (",
                             why_no_units(config, model.spec), "); use --runtime dense"));
  }
  const submodel::Submodel live(out.dense.shared_layout(), prune::live_units(out.dense));
  out.pruned = live.extract(out.dense);
  out.units = live.units();
  out.removed = total(layout.group_sizes()) - total(out.units);
  out.smaller = load(
      models::make_trainer(config.model, model.spec, config.train.hardware, out.units), out.pruned);
  const LogitDifference found = check_agreement(model, out);
  if (!(found.difference <= std::max(kTolerance * found.largest, kRounding))) {
    throw NotPrunable(concat(
        "[runtime/pruned] without the ", out.removed, " units that are zero the logits of model '",
        config.model.name, "' change by ", found.difference,
        ", because it has layers that look at all channels, zero or not, as group normalization "
        "and gates do; use --runtime dense"));
  }
  out.logit_difference = found.difference;
  return out;
}

Json describe(const PrunedModel& pruned) {
  const ParameterLayout& layout = pruned.dense.layout();
  Json out = {{"units", total(layout.group_sizes())},
              {"removed_units", pruned.removed},
              {"max_logit_difference", pruned.logit_difference}};
  if (pruned.removed == 0) {
    out["note"] =
        "every unit does something: the pruned network is the dense one. Structured pruning "
        "makes units that can be removed.";
  }
  out["kept_units"] = Json::object();
  for (size_t g = 0; g < pruned.units.size(); ++g) {
    const UnitGroup& group = layout.groups()[g];
    out["kept_units"][group.name] = {pruned.units[g], group.size};
  }
  return out;
}

Json evaluate_pruned(const TrainedModel& model) {
  const PrunedModel pruned = prune_model(model);
  Json out = {{"model", model.config.model.name}, {"samples", model.data.test->size()}};
  out.update(describe(pruned));
  out["variants"] = measure(model, {{"dense", pruned.whole.get(), &pruned.dense},
                                    {"pruned", pruned.smaller.get(), &pruned.pruned}});
  return out;
}

}  // namespace espalier::run

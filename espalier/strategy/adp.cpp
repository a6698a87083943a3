#include "espalier/strategy/adp.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/strategy/salient_trainer.h"
#include "espalier/train/gates.h"

namespace espalier::strategy {
namespace {

// The base with those of our options that it has too.
std::unique_ptr<Strategy> make_base(const AdpOptions& options) {
  const StrategyRow& row = find_strategy(options.base);
  Json ours = Json::object(), table = Json::object();
  write_options(options, ours);
  for (const FieldHelp& field : row.describe()) {
    if (const auto found = ours.find(field.name); found != ours.end()) table[field.name] = *found;
  }
  return row.create({&table, "strategy"}, {});
}

bool of_model(const Payload& payload, const ParameterLayout& model) {
  return payload.values != nullptr && payload.values->layout() == model;
}

}  // namespace

Adp::Adp(const Options& options) : options_(options), base_(make_base(options)) {
  const AdpOptions defaults;
  const auto refuse = [&](const char* option, const char* why) {
    fail("config", "strategy.", option, " does nothing with mode \"", options_.mode, "\"", why);
  };
  if (gated()) {
    if (options_.threshold != defaults.threshold) refuse("threshold", "; it is for magnitude");
    if (options_.epoch_lr_decay != defaults.epoch_lr_decay)
      refuse("epoch_lr_decay", "; use train.lr_schedule");
  } else {
    if (options_.ratio != defaults.ratio) refuse("ratio", "; it is for gates");
    if (options_.ratio_rounds != 0) refuse("ratio_rounds", "; it is for gates");
  }
  if (options_.base != "fedprox" && options_.mu != defaults.mu)
    fail("config", "strategy.mu is for base = \"fedprox\", not \"", options_.base, "\"");
}

void Adp::start(const ServerSetup& setup) {
  base_->start(setup);
  if (gated() && (!train::has_gates(*setup.layout) || setup.model.gates != options_.mode)) {
    fail("config", "strategy.mode = \"", options_.mode,
         "\" needs a model with such gates; set "
         "model.gates = \"",
         options_.mode, "\"");
  }
  const double usual = train::ModelOptions{}.gate_ratio;
  if (gated() && setup.model.gate_ratio != usual && setup.model.gate_ratio != options_.ratio)
    fail("config", "strategy.ratio = ", options_.ratio,
         " would replace model.gate_ratio = ", setup.model.gate_ratio,
         " in the first round; set strategy.ratio alone");
  if (!gated() && train::has_gates(*setup.layout))
    fail("config",
         "strategy.mode = \"magnitude\" is for a model without gates; set model.gates = "
         "\"none\"");
}

double Adp::ratio_at(uint32_t round) const {
  if (options_.ratio_rounds == 0) return options_.ratio;
  const double way =
      std::min(1.0, static_cast<double>(round - 1) / static_cast<double>(options_.ratio_rounds));
  return 1 + way * (options_.ratio - 1);
}

void Adp::begin_round(const RoundInfo& round, ParameterSet& global) {
  values_ = sent_values_ = 0;
  ratio_ = ratio_at(round.round);
  if (gated()) train::set_gate_ratio(global, ratio_);
  base_->begin_round(round, global);
}

void Adp::configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                    Task& task) {
  base_->configure(round, global, task);
}

std::vector<std::string> Adp::update_payloads(const RoundInfo& round) const {
  return base_->update_payloads(round);
}

void Adp::accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                     RoundSums& sums) {
  base_->accumulate(round, client, update, sums);
  const uint64_t size = update.payloads[0].values->size();
  values_ += size;
  sent_values_ += update.mask != nullptr ? update.mask->mask.kept() : size;
}

void Adp::finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) {
  base_->finish(round, sums, global);
}

std::map<std::string, double> Adp::metrics() const {
  std::map<std::string, double> figures = base_->metrics();
  if (gated()) figures["gate_ratio"] = ratio_;
  if (values_ > 0)
    figures["sent_share"] = static_cast<double>(sent_values_) / static_cast<double>(values_);
  return figures;
}

Update Adp::run_client(ClientContext& context, const Task& task) const {
  SalientRules rules;
  if (gated()) {
    // SCAFFOLD's control variates count on every change that they make.
    rules.keep_silent_rows = options_.base != "scaffold";
  } else {
    rules.threshold = options_.threshold;
    rules.epoch_lr_decay = options_.epoch_lr_decay;
  }
  SalientTrainer trainer(context.trainer, rules);
  ClientContext salient{trainer,      context.dataset,     context.samples,
                        context.key,  context.previous,    {},
                        context.test, context.test_samples};
  Update update = base_->run_client(salient, task);
  context.next = std::move(salient.next);
  if (!options_.sparse_updates) return update;
  const ParameterLayout& model = task.payload(kModel).values->layout();
  std::optional<prune::Mask> changed;
  for (const Payload& payload : update.payloads) {
    if (!of_model(payload, model)) continue;
    prune::Mask mask =
        gated() ? prune::Mask::row_support(*payload.values) : prune::Mask::support(*payload.values);
    changed = changed ? prune::Mask::either(*changed, mask) : std::move(mask);
  }
  if (changed && !changed->whole())
    update.mask = std::make_shared<TravellingMask>(*std::move(changed), task.round);
  return update;
}

}  // namespace espalier::strategy

#include "espalier/strategy/adp.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/models/model_options.h"
#include "espalier/nn/gates.h"
#include "espalier/strategy/adp_client.h"

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
    if (options_.ratio_start != 0) refuse("ratio_start", "; it is for gates");
  }
  if (options_.base != "fedprox" && options_.mu != defaults.mu)
    fail("config", "strategy.mu is for base = \"fedprox\", not \"", options_.base, "\"");
}

Traits Adp::traits() const {
  Traits traits = base_->traits();
  traits.plain_sums = false;  // accumulate() counts values
  traits.masks = options_.sparse_updates;
  traits.masks_advice = "set strategy.sparse_updates = false";
  return traits;
}

void Adp::start(const ServerSetup& setup) {
  base_->start(setup);
  if (!gated() && options_.base == "scaffold" && options_.epoch_lr_decay != 1 &&
      setup.train.epochs > 1) {
    fail("config",
         "strategy.base = \"scaffold\" needs epochs of one learning rate, by which its control "
         "variates are divided; set strategy.epoch_lr_decay = 1 (train.lr_schedule lowers it from "
         "round to round), train.epochs = 1, or another base");
  }
  if (gated() && (!nn::has_gates(*setup.layout) || setup.model.gates != options_.mode)) {
    fail("config", "strategy.mode = \"", options_.mode,
         "\" needs a model with such gates; set "
         "model.gates = \"",
         options_.mode, "\"");
  }
  const double usual = models::ModelOptions{}.gate_ratio;
  if (gated() && setup.model.gate_ratio != usual && setup.model.gate_ratio != options_.ratio)
    fail("config", "strategy.ratio = ", options_.ratio,
         " would replace model.gate_ratio = ", setup.model.gate_ratio,
         " in the first round; set strategy.ratio alone");
  if (!gated() && nn::has_gates(*setup.layout))
    fail("config",
         "strategy.mode = \"magnitude\" is for a model without gates; set model.gates = "
         "\"none\"");
}

double Adp::ratio_at(uint32_t round) const {
  const int64_t since = int64_t{round} - 1 - options_.ratio_start;
  if (since < 0) return 1;
  if (since >= options_.ratio_rounds) return options_.ratio;
  const double way = static_cast<double>(since) / static_cast<double>(options_.ratio_rounds);
  return 1 + way * (options_.ratio - 1);
}

void Adp::begin_round(const RoundInfo& round, ParameterSet& global) {
  values_ = sent_values_ = 0;
  ratio_ = ratio_at(round.round);
  if (gated()) nn::set_gate_ratio(global, ratio_);
}

void Adp::configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                    Task& task) {
  base_->configure(round, global, task);
  AdpClientOptions client;
  client.mode = options_.mode;
  client.base = task.algorithm;
  client.threshold = options_.threshold;
  client.epoch_lr_decay = options_.epoch_lr_decay;
  client.sparse_updates = options_.sparse_updates;
  task.algorithm = AdpClient::kName;
  task.options.update(changed_options(client));
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

RoundReport Adp::take_report() {
  RoundReport report = base_->take_report();
  if (gated()) report.figures["gate_ratio"] = ratio_;
  if (values_ > 0)
    report.figures["sent_share"] = static_cast<double>(sent_values_) / static_cast<double>(values_);
  return report;
}

}  // namespace espalier::strategy

#include "espalier/strategy/adp_client.h"

#include <optional>

#include "espalier/base/error.h"
#include "espalier/strategy/client_algorithms.h"
#include "espalier/strategy/salient_trainer.h"

namespace espalier::strategy {
namespace {

std::vector<std::string> names_of(const std::vector<FieldHelp>& fields) {
  std::vector<std::string> names;
  for (const FieldHelp& field : fields) names.push_back(field.name);
  return names;
}

std::unique_ptr<client::ClientAlgorithm> create(const ConfigSection& section,
                                                const std::vector<std::string>& other_keys) {
  std::string base = AdpClientOptions{}.base;
  if (section.table != nullptr && section.table->contains("base")) {
    const Json& named = section.table->at("base");
    if (!named.is_string()) fail("client/task", "expected the name of an algorithm, got ", named);
    base = named.get<std::string>();
  }
  // A peer may ask for an endless tower of these.
  if (base == AdpClient::kName) fail("client/task", "algorithm 'adp' cannot be its own base");
  const client::AlgorithmRow& row = client::find_algorithm(client_algorithms(), base);
  std::vector<std::string> not_ours = names_of(row.describe());
  not_ours.insert(not_ours.end(), other_keys.begin(), other_keys.end());
  AdpClientOptions options;
  read_options(section, not_ours, options);
  std::vector<std::string> ours = names_of(describe_options<AdpClientOptions>());
  ours.insert(ours.end(), other_keys.begin(), other_keys.end());
  return std::make_unique<AdpClient>(options, row.create(section, ours));
}

}  // namespace

client::AlgorithmRow AdpClient::row() {
  return {kName, create, [] { return describe_options<AdpClientOptions>(); }};
}

wire::Update AdpClient::run(client::ClientContext& context, const wire::Task& task) const {
  SalientRules rules;
  if (gated()) {
    // SCAFFOLD's control variates count on every change that they make.
    rules.keep_silent_rows = options_.base != "scaffold";
  } else {
    rules.threshold = options_.threshold;
    rules.epoch_lr_decay = options_.epoch_lr_decay;
  }
  SalientTrainer trainer(context.trainer, rules);
  client::ClientContext salient{trainer,      context.dataset,     context.samples,
                                context.key,  context.previous,    {},
                                context.test, context.test_samples};
  wire::Update update = base_->run(salient, task);
  context.next = std::move(salient.next);
  if (!options_.sparse_updates) return update;
  const ParameterLayout& model = task.payload(wire::kModel).values->layout();
  std::optional<prune::Mask> changed;
  for (const wire::Payload& payload : update.payloads) {
    if (payload.values == nullptr || !(payload.values->layout() == model)) continue;
    prune::Mask mask =
        gated() ? prune::Mask::row_support(*payload.values) : prune::Mask::support(*payload.values);
    changed = changed ? prune::Mask::either(*changed, mask) : std::move(mask);
  }
  if (changed && !changed->whole())
    update.mask = std::make_shared<wire::TravellingMask>(*std::move(changed), task.round);
  return update;
}

}  // namespace espalier::strategy

#include "espalier/round/strategy_errand.h"

namespace espalier::round {

StrategyErrand::StrategyErrand(const Setup& setup, uint64_t max_clients, double max_weight,
                               strategy::SumRules rules)
    : setup_(setup),
      encoded_(setup.strategy.capabilities().encoded_updates),
      sums_(max_clients, max_weight, std::move(rules)) {}

Outgoing StrategyErrand::prepare(uint64_t client) {
  const strategy::RoundInfo& info = setup_.info;
  Outgoing out;
  wire::Task& task = out.task;
  task.kind = info.kind;
  task.round = info.round;
  task.client = client;
  const auto version = setup_.state_versions.find(client);
  if (version != setup_.state_versions.end()) task.state_version = version->second;
  task.keeps_state = setup_.keeps_state;
  task.train = info.train;
  const double keep = setup_.plan.keep(setup_.devices, client, info.round);
  {
    const std::lock_guard lock(configure_mutex_);
    setup_.strategy.configure(info, setup_.global, task);
  }
  // What nobody else receives is not kept once it is sent.
  out.own = task.submodel == nullptr && setup_.plan.differs_by_client();
  out.submodel = task.submodel != nullptr
                     ? task.submodel
                     : setup_.plan.choose(info.round, client, keep, *setup_.global);
  out.codec_key = info.key.child(Purpose::kDownlink);
  if (out.submodel) {
    task.units = out.submodel->units();
    for (wire::Payload& payload : task.payloads) {
      if (payload.values->layout() == setup_.global->layout())
        payload.values = extracted(out.submodel, out.own, payload.values);
    }
    // Sub-models of their own lose different things, so that the losses average out.
    if (out.own) out.codec_key = out.codec_key.child(client);
  }
  if (setup_.plan.active()) {
    task.submodel_training = setup_.plan.training(keep);
    if (!out.submodel && !(task.submodel_training == train::SubmodelTraining{}))
      task.units = setup_.global->layout().group_sizes();
  }
  if (setup_.delta_sender != nullptr) {
    const auto held = task.state_version > 0 ? std::optional(task.state_version) : std::nullopt;
    const auto bytes = setup_.delta_sender->message_for(held);
    const std::lock_guard lock(extract_mutex_);
    auto& shared = deltas_[bytes.data()];
    if (!shared) shared = std::make_shared<const Bytes>(bytes.begin(), bytes.end());
    out.model_delta = shared;
  }
  return out;
}

// A part of a payload; clients with the same sub-model share it, so that it is encoded once.
std::shared_ptr<const ParameterSet> StrategyErrand::extracted(
    const std::shared_ptr<const submodel::Submodel>& submodel, bool own,
    const std::shared_ptr<const ParameterSet>& values) {
  const auto extract = [&] { return std::make_shared<ParameterSet>(submodel->extract(*values)); };
  if (own) return extract();
  const std::lock_guard lock(extract_mutex_);
  auto& part = extracted_[{submodel.get(), values.get()}];
  if (!part) part = extract();
  return part;
}

wire::WireLimits StrategyErrand::limits(uint64_t client, const Sent& sent) const {
  wire::WireLimits limits;
  limits.model = sent.submodel ? sent.submodel->layout() : setup_.global->shared_layout();
  limits.mask = sent.mask;
  limits.keep_encoded = encoded_ != nullptr;
  limits.max_values = 0;
  if (encoded_ != nullptr) {
    limits.max_values = encoded_->max_values(
        *limits.model, static_cast<double>(setup_.backend.num_samples(client)));
  }
  constexpr size_t kMaxEncodedPayloads = 16;
  limits.max_payloads = encoded_ != nullptr ? kMaxEncodedPayloads
                                            : setup_.strategy.update_payloads(setup_.info).size();
  return limits;
}

void StrategyErrand::accept(uint64_t client, const Sent& sent, wire::Update& update) {
  const ParameterLayout& layout =
      sent.submodel ? *sent.submodel->layout() : setup_.global->layout();
  setup_.strategy.check(setup_.info, layout, update.num_samples, update);
  sums_.admit(update);
  setup_.strategy.accumulate(setup_.info, client, update, sums_);
}

std::optional<Summing> StrategyErrand::summing() const {
  if (!setup_.strategy.traits().plain_sums || kind() != wire::TaskKind::kTrain ||
      encoded_ != nullptr || sums_.reweighs())
    return std::nullopt;
  return Summing{sums_.max_clients(), sums_.max_weight(),
                 setup_.strategy.update_payloads(setup_.info)};
}

}  // namespace espalier::round

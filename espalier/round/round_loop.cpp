#include "espalier/round/round_loop.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/base/memory_use.h"
#include "espalier/params/hidden_outputs.h"
#include "espalier/round/client_errands.h"
#include "espalier/round/statistics_errand.h"
#include "espalier/round/strategy_errand.h"

namespace espalier::round {

namespace {

constexpr const char* kCheckpoint = "round/checkpoint";

// Outputs of hidden layers times `scale`, as HeteroFL's scaler trains them.
void scale_hidden(ParameterSet& model, float scale) {
  for (const ParameterInfo& tensor : model.layout().tensors()) {
    if (!makes_hidden_outputs(tensor)) continue;
    for (float& value : model.values(tensor)) value *= scale;
  }
}

RoundRecord::Cost cost_of(const Exchange& exchange) {
  return {exchange.bytes_down(), exchange.bytes_up(), exchange.macs()};
}

// What an exchange cost, and who failed in it.
void add_cost(const Exchange& exchange, const char* when, RoundRecord& record) {
  record.bytes_down += exchange.bytes_down();
  record.bytes_up += exchange.bytes_up();
  record.macs += exchange.macs();
  record.simulated = record.simulated + exchange.slowest();
  record.deliveries_refused += exchange.refused();
  record.add_failures(exchange.failures(), when);
}

}  // namespace

RoundLoop::RoundLoop(const Setup& setup, ParameterSet initial)
    : setup_(setup),
      traits_(setup.strategy.traits()),
      can_(setup.strategy.capabilities()),
      plan_(setup.submodel, initial.shared_layout(), Key(static_cast<uint64_t>(setup.run.seed)),
            setup.devices),
      devices_(setup.devices, setup.backend.num_clients(),
               Key(static_cast<uint64_t>(setup.run.seed)).child(Purpose::kDevices)),
      global_(std::make_shared<ParameterSet>(plan_.begin(std::move(initial)))),
      failures_(static_cast<uint64_t>(setup.run.rounds)) {
  if (setup_.train.schedule.schedule_rounds == 0)
    setup_.train.schedule.schedule_rounds = setup_.run.rounds;
  if (!setup_.selection.device.empty()) eligible_ = devices_.clients_of(setup_.selection.device);
  const int64_t by_default = SelectionOptions().clients_per_round;
  if (setup_.selection.clients_per_round == by_default && num_eligible() > 0 &&
      num_eligible() < static_cast<uint64_t>(by_default)) {
    setup_.selection.clients_per_round = static_cast<int64_t>(num_eligible());
    notes_.push_back(concat("[round] clients_per_round is lowered from its default ", by_default,
                            " to the ", num_eligible(), " clients that there are"));
  }
  if (static_cast<uint64_t>(setup_.selection.clients_per_round) > num_eligible()) {
    fail("config", "strategy.clients_per_round is ", setup_.selection.clients_per_round,
         ", but there are only ", num_eligible(), " clients",
         setup_.selection.device.empty() ? "" : " of device '" + setup_.selection.device + "'",
         "; lower it or raise data.partition.clients");
  }
  if (plan_.active() && setup_.run.rounds > 0) {
    const SubmodelOptions& submodel = setup_.submodel;
    if (submodel.whole_until >= setup_.run.rounds)
      notes_.push_back(
          concat("[submodel] all ", setup_.run.rounds,
                 " rounds train the whole model: whole_until = ", submodel.whole_until));
    if (submodel.whole_from > setup_.run.rounds)
      notes_.push_back(concat("[submodel] the model does not become whole in ", setup_.run.rounds,
                              " rounds: whole_from = ", submodel.whole_from));
  }
  const Choices choices{traits_,        setup_.selection, setup_.run,     setup_.submodel,
                        setup_.devices, setup_.uplink,    setup_.downlink};
  refuse_combinations(choices);
  feedback_ = choose_feedback(choices);
  if (setup_.run.delta_downlink) {
    delta_sender_ = std::make_unique<codec::DeltaSender>(setup_.downlink, global_->shared_layout());
  }
  setup_.server.num_clients = num_eligible();
  setup_.strategy.start(setup_.server);
  if (feedback_ != Feedback::kNone)
    require_contraction(setup_.uplink, global_->layout(), "error feedback (uplink)");
  if (delta_sender_) require_contraction(setup_.downlink, global_->layout(), "delta_downlink");
  // A strategy that does not fit the training options says so now and not client by client.
  wire::Task probe;
  probe.train = setup_.train.step;
  setup_.strategy.configure(
      {1, static_cast<uint32_t>(setup_.run.rounds), Key(0), setup_.train.step}, global_, probe);
}

bool RoundLoop::clients_have_state() const {
  return traits_.client_state || feedback_ != Feedback::kNone || delta_sender_ != nullptr;
}

bool RoundLoop::evaluates(uint32_t round) const {
  const bool last = round == static_cast<uint32_t>(setup_.run.rounds);
  return last ||
         (setup_.run.eval_every > 0 && round % static_cast<uint32_t>(setup_.run.eval_every) == 0);
}

uint64_t RoundLoop::num_eligible() const {
  return setup_.selection.device.empty() ? setup_.backend.num_clients() : eligible_.size();
}

std::vector<uint64_t> RoundLoop::draw_clients(Key key, uint64_t count) const {
  return setup_.backend.select(key.child(Purpose::kSelection), eligible_, count);
}

double RoundLoop::max_weight(std::span<const uint64_t> clients) const {
  double weight = 1;
  for (const uint64_t client : clients)
    weight = std::max(weight, static_cast<double>(setup_.backend.num_samples(client)));
  return weight;
}

// How the sums of an exchange become means: the aggregation, then what undoes the clients' stages.
strategy::SumRules RoundLoop::sum_rules(wire::TaskKind kind) const {
  strategy::SumRules rules = {plan_.aggregation()};
  if (feedback_ == Feedback::kEf21 && kind == wire::TaskKind::kTrain)
    rules.push_back(strategy::estimated_mean(estimates_, num_eligible()));
  return rules;
}

Exchange::Setup RoundLoop::exchange_setup(Key key, std::shared_ptr<const ParameterLayout> layout) {
  return {.round = round_ + 1,
          .number = exchanges_++,
          .key = key,
          .downlink = setup_.downlink,
          .uplink = setup_.uplink,
          .backend = setup_.backend,
          .devices = devices_,
          .layout = std::move(layout),
          .on_client = &on_client,
          .exact_tasks = delta_sender_ != nullptr};
}

// The exchange before a round in which some clients look around for the strategy.
void RoundLoop::explore(const strategy::RoundInfo& round, uint64_t count, RoundRecord& record) {
  strategy::RoundInfo info = round;
  info.kind = wire::TaskKind::kExplore;
  info.key = round.key.child(Purpose::kExploration);
  const std::vector<uint64_t> clients = draw_clients(info.key, count);
  StrategyErrand errand(
      {info, setup_.strategy, setup_.backend, plan_, devices_, global_, state_versions_},
      clients.size(), max_weight(clients), sum_rules(info.kind));
  Exchange exchange(exchange_setup(info.key, global_->shared_layout()), clients, errand);
  exchange.run(setup_.backend);
  add_cost(exchange, " (exploration)", record);
  record.client_seconds += exchange.client_seconds();
  if (exchange.answered().empty()) {
    throw RoundFailed(concat("[round] all ", clients.size(), " explorers of round ", info.round,
                             " failed; ", record.failures.front()));
  }
  record.exploration = {cost_of(exchange), exchange.answered().size()};
  record.explorer_ids = clients;
  std::sort(record.explorer_ids.begin(), record.explorer_ids.end());
  setup_.strategy.finish(info, errand.sums(), *global_);
}

RoundRecord RoundLoop::run_round() {
  ESPALIER_CHECK(!finished());
  const Stopwatch wall;
  exchanges_ = 0;
  const uint32_t round = round_ + 1;
  const auto num_rounds = static_cast<uint32_t>(setup_.run.rounds);
  strategy::RoundInfo info{round, num_rounds,
                           Key(static_cast<uint64_t>(setup_.run.seed)).child(round),
                           setup_.train.step};
  info.train.lr = train::lr_at_round(setup_.train.schedule, setup_.train.step.lr, round - 1);
  // What a strategy evaluates by itself costs uploads: none of them where nobody asks.
  info.evaluates =
      evaluates(round) && !(can_.own_model != nullptr && setup_.run.evaluate == "none");

  if (can_.preparation == nullptr && !clients_evaluate(info)) return train_round(info, wall);
  Before before{*global_, {}, estimates_, state_versions_, uncommitted_};
  ByteWriter out(before.strategy);
  setup_.strategy.save(out);
  try {
    return train_round(info, wall);
  } catch (const RoundFailed&) {
    *global_ = std::move(before.global);
    ByteReader in(before.strategy, "round");
    setup_.strategy.load(in);
    estimates_ = std::move(before.estimates);
    state_versions_ = std::move(before.state_versions);
    uncommitted_ = std::move(before.uncommitted);
    throw;
  }
}

// Or compute the statistics that an evaluation needs.
bool RoundLoop::clients_evaluate(const strategy::RoundInfo& info) const {
  return info.evaluates && can_.own_model == nullptr &&
         (setup_.run.evaluate == "clients" || plan_.options().static_batch_norm);
}

RoundRecord RoundLoop::train_round(const strategy::RoundInfo& info, const Stopwatch& wall) {
  RoundRecord record;
  record.round = info.round;
  record.lr = info.train.lr;
  if (can_.preparation != nullptr) {
    const Stopwatch preparing;
    can_.preparation->begin_round(info, *global_);
    if (const uint64_t explorers = can_.preparation->explorers(info); explorers > 0)
      explore(info, explorers, record);
    record.train_seconds = preparing.seconds();
  }

  const std::vector<uint64_t> clients =
      draw_clients(info.key, static_cast<uint64_t>(setup_.selection.clients_per_round));
  if (!delta_sender_) return train_clients(info, clients, std::move(record), wall);
  std::optional<ParameterSet> before;
  if (delta_sender_->version() > 0) before = delta_sender_->state();
  delta_sender_->advance(*global_, info.key.child(Purpose::kDownlink));
  try {
    return train_clients(info, clients, std::move(record), wall);
  } catch (const RoundFailed&) {
    set_downlink_state(std::move(before));
    throw;
  }
}

RoundRecord RoundLoop::train_clients(const strategy::RoundInfo& info,
                                     std::span<const uint64_t> clients, RoundRecord record,
                                     const Stopwatch& wall) {
  const uint32_t round = info.round;
  const Stopwatch training;
  StrategyErrand errand({info, setup_.strategy, setup_.backend, plan_, devices_, global_,
                         state_versions_, clients_have_state(), delta_sender_.get()},
                        clients.size(), max_weight(clients), sum_rules(info.kind));
  Exchange exchange(exchange_setup(info.key, global_->shared_layout()), clients, errand);
  exchange.run(setup_.backend);
  if (!traits_.weights_travel) setup_.backend.release_memory();

  record.train_seconds += training.seconds();
  record.clients = clients.size();
  record.client_ids.assign(clients.begin(), clients.end());
  std::sort(record.client_ids.begin(), record.client_ids.end());
  record.clients_failed = exchange.failures().size();
  add_cost(exchange, "", record);
  record.client_seconds += exchange.client_seconds();
  if (exchange.answered().empty()) {
    throw RoundFailed(concat("[round] all ", clients.size(), " clients of round ", round,
                             " failed; ", record.failures.front()));
  }
  FailureHistory::Verdict verdict = failures_.add(clients, exchange.failures());
  if (!verdict.end.empty()) throw RoundFailed(concat("[round] round ", round, ": ", verdict.end));
  const strategy::RoundSums& sums = errand.sums();
  record.train_loss = sums.weighted_mean_of(wire::kTrainLoss);
  record.train_accuracy = sums.weighted_mean_of(wire::kTrainAccuracy);

  finish(info, sums);
  if (feedback_ == Feedback::kEf21) {
    for (const std::string& payload : sums.payloads())
      estimates_.insert_or_assign(payload, sums.mean(payload, global_->shared_layout()));
  }
  if (!all_finite(global_->values())) {
    fail("round", "the global model is no longer finite after round ", round,
         "; lower train.lr or strategy.server_lr");
  }
  if (clients_have_state()) {
    for (const uint64_t client : exchange.answered())
      state_versions_[client] = uncommitted_[client] = round;
  }
  strategy::RoundReport report = setup_.strategy.take_report();
  record.extra = std::move(report.figures);
  record.notes = std::move(report.notes);
  std::ranges::move(verdict.notes, std::back_inserter(record.notes));
  if (info.evaluates) {
    if (plan_.options().static_batch_norm)
      collect_statistics(info, exchange.answered(), 1, *global_, record);
    evaluate(info, exchange.answered(), record);
  }
  record.seconds = wall.seconds();
  round_ = round;
  ledger_.add(record, setup_.run.target_accuracy);
  return record;
}

// The strategy's server half. A server optimizer moves weights by its momentum too; what no client
// of the round has trained keeps its bits all the same.
void RoundLoop::finish(const strategy::RoundInfo& info, const strategy::RoundSums& sums) {
  const MemoryScope scope(MemoryUse::kServer);
  const auto parts = sums.submodels();
  if (!parts) {
    setup_.strategy.finish(info, sums, *global_);
    return;
  }
  ParameterSet after = *global_;
  setup_.strategy.finish(info, sums, after);
  for (const auto& part : *parts) part->merge(part->extract(after), *global_);
}

void RoundLoop::evaluate(const strategy::RoundInfo& info, std::span<const uint64_t> clients,
                         RoundRecord& record) {
  if (setup_.run.evaluate == "none") return;
  const Stopwatch evaluation;
  const auto part = can_.narrowing != nullptr ? can_.narrowing->part() : nullptr;
  strategy::OwnEvaluation own;
  if (can_.own_model != nullptr) own = can_.own_model->evaluated();
  const train::EvalSums sums =
      can_.own_model != nullptr ? own.sums
      : setup_.run.evaluate == "clients"
          ? ask_clients(info, clients, global_, record)
          : setup_.evaluator.evaluate(part ? part->extract(*global_) : *global_);
  record.eval_macs += static_cast<double>(sums.macs);
  if (sums.count > 0) {
    record.accuracy = static_cast<double>(sums.correct) / static_cast<double>(sums.count);
    record.classes = sums.classes;
    // A model may be finite and its loss not; then there is no number to report.
    if (std::isfinite(sums.loss)) record.loss = sums.loss / static_cast<double>(sums.count);
  }
  for (const double width : plan_.options().eval_widths) {
    const auto submodel = plan_.at_width(width);
    train::EvalSums narrow = sums;
    if (submodel) {
      ParameterSet model = submodel->extract(*global_);
      // First, so that the statistics are those of the outputs that they normalize.
      if (plan_.options().scaler) scale_hidden(model, static_cast<float>(1 / width));
      if (plan_.options().static_batch_norm)
        collect_statistics(info, clients, width, model, record);
      narrow = setup_.evaluator.evaluate(model);
      record.eval_macs += static_cast<double>(narrow.macs);
    }
    if (narrow.count > 0) {
      record.width_accuracy[width] =
          static_cast<double>(narrow.correct) / static_cast<double>(narrow.count);
    }
  }
  record.eval_seconds = own.seconds + evaluation.seconds();
}

train::EvalSums RoundLoop::ask_clients(const strategy::RoundInfo& round,
                                       std::span<const uint64_t> answered,
                                       std::shared_ptr<const ParameterSet> model,
                                       RoundRecord& record) {
  strategy::RoundInfo info = round;
  info.kind = wire::TaskKind::kEvaluate;
  info.key = round.key.child(Purpose::kEvaluation);
  const auto count = static_cast<uint64_t>(setup_.run.eval_clients);
  std::vector<uint64_t> clients(answered.begin(), answered.end());
  if (count > 0) {
    try {
      clients = draw_clients(info.key, count);
    } catch (const RoundFailed& nobody) {
      // The round is done and stays so.
      record.notes.push_back(concat("not evaluated: ", nobody.what()));
      return {};
    }
  }
  std::sort(clients.begin(), clients.end());
  EvaluationErrand errand(info, std::move(model));
  Exchange::Setup quiet = exchange_setup(info.key, global_->shared_layout());
  quiet.on_client = nullptr;  // a person watches clients train
  Exchange exchange(quiet, clients, errand);
  exchange.run(setup_.backend);
  add_cost(exchange, " (evaluation)", record);
  record.evaluation += cost_of(exchange);
  return errand.sums();
}

std::map<uint64_t, ParameterSet> RoundLoop::recall(const std::string& set,
                                                   std::vector<std::string>& notes) {
  if (state_versions_.empty()) return {};
  strategy::RoundInfo info{round_, static_cast<uint32_t>(setup_.run.rounds),
                           Key(static_cast<uint64_t>(setup_.run.seed)).child(round_),
                           setup_.train.step};
  info.kind = wire::TaskKind::kRecall;
  exchanges_ = 0;
  std::vector<uint64_t> clients;
  for (const auto& [client, version] : state_versions_) clients.push_back(client);
  RecallErrand errand(info, set, state_versions_, global_->shared_layout());
  Exchange::Setup quiet = exchange_setup(info.key, global_->shared_layout());
  quiet.on_client = nullptr;
  Exchange exchange(quiet, clients, errand);
  exchange.run(setup_.backend);
  for (const auto& [client, why] : exchange.failures())
    notes.push_back(concat("the model lacks client ", client, "'s part: ", why));
  return errand.take();
}

// Only clients whose own sub-model is at least as wide can hold this one: those that have answered,
// or when they cannot, others.
std::vector<uint64_t> RoundLoop::choose_calibrating(const strategy::RoundInfo& info,
                                                    std::span<const uint64_t> answered,
                                                    double width) const {
  const auto holds = [&](uint64_t client) {
    return plan_.keep(devices_, client, info.round) >= width;
  };
  std::vector<uint64_t> able;
  std::ranges::copy_if(answered, std::back_inserter(able), holds);
  if (!able.empty()) return able;
  for (uint64_t place = 0; place < num_eligible(); ++place) {
    const uint64_t client = eligible_.empty() ? place : eligible_[place];
    if (holds(client)) able.push_back(client);
  }
  if (!able.empty()) able = setup_.backend.present(able);
  const auto count =
      std::min<uint64_t>(able.size(), static_cast<uint64_t>(setup_.selection.clients_per_round));
  std::vector<uint64_t> chosen = sample_without_replacement(
      info.key.child(Purpose::kSelection).child(Purpose::kEvaluation), able.size(), count);
  for (uint64_t& client : chosen) client = able[client];
  return chosen;
}

void RoundLoop::collect_statistics(const strategy::RoundInfo& info,
                                   std::span<const uint64_t> answered, double width,
                                   ParameterSet& model, RoundRecord& record) {
  const std::vector<uint64_t> able = choose_calibrating(info, answered, width);
  bool found = false;
  if (!able.empty()) {
    const bool whole = model.layout() == global_->layout();
    StatisticsErrand errand(info, std::make_shared<ParameterSet>(model),
                            whole ? std::vector<int64_t>{} : model.layout().group_sizes(),
                            able.size(), max_weight(able));
    // A person watches clients train; this is part of an evaluation.
    Exchange::Setup quiet = exchange_setup(info.key, model.shared_layout());
    quiet.on_client = nullptr;
    Exchange exchange(quiet, able, errand);
    exchange.run(setup_.backend);
    found = errand.finish(model);
    add_cost(exchange, " (statistics)", record);
    record.evaluation += cost_of(exchange);
  }
  if (found) return;
  record.notes.push_back(
      concat("static_batch_norm: ",
             able.empty() ? "no client that is there holds" : "no client has answered for",
             " a net of width ", width, ", so its running statistics stay what they were"));
}

Checkpoint RoundLoop::checkpoint(uint64_t configuration) const {
  setup_.backend.make_durable();
  Checkpoint checkpoint{configuration,   round_,     ledger_, *global_, {},
                        state_versions_, estimates_, {}};
  if (delta_sender_ && delta_sender_->version() > 0)
    checkpoint.downlink_state = delta_sender_->state();
  if (can_.long_state != nullptr) {
    checkpoint.strategy = can_.long_state->saved();
  } else {
    Bytes state;
    ByteWriter out(state);
    setup_.strategy.save(out);
    checkpoint.strategy.append(std::move(state));
  }
  return checkpoint;
}

void RoundLoop::checkpoint_written() {
  setup_.backend.commit(round_, uncommitted_);
  uncommitted_.clear();
}

void RoundLoop::set_downlink_state(std::optional<ParameterSet> state) {
  delta_sender_ =
      state ? std::make_unique<codec::DeltaSender>(setup_.downlink, std::move(*state), round_)
            : std::make_unique<codec::DeltaSender>(setup_.downlink, global_->shared_layout());
}

void RoundLoop::restore(Checkpoint checkpoint) {
  round_ = checkpoint.round;
  ledger_ = checkpoint.ledger;
  state_versions_ = std::move(checkpoint.state_versions);
  global_ = std::make_shared<ParameterSet>(std::move(checkpoint.global));
  estimates_ = std::move(checkpoint.estimates);
  if (delta_sender_) {
    set_downlink_state(checkpoint.downlink_state.empty()
                           ? std::nullopt
                           : std::optional(std::move(checkpoint.downlink_state)));
  }
  if (can_.long_state != nullptr) {
    SourceReader in(checkpoint.strategy, kCheckpoint);
    can_.long_state->restore(in);
    in.finish();
  } else {
    const Bytes state = checkpoint.strategy.bytes();
    ByteReader in(state, kCheckpoint);
    setup_.strategy.load(in);
    in.finish();
  }
}

}  // namespace espalier::round

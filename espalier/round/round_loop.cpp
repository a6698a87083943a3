#include "espalier/round/round_loop.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/round/statistics_traffic.h"

namespace espalier::round {

namespace {

// Error feedback and differences converge only with a codec that keeps more than it loses, E‖C(x) −
// x‖² < ‖x‖².
void require_contraction(const codec::Codec& codec, std::string_view what) {
  ParameterSet sample(std::make_shared<ParameterLayout>(
      std::vector<ParameterInfo>{{"sample.weight", {64, 128}, Role::kWeight}}));
  Stream stream{Key(1)};
  for (float& value : sample.values()) value = static_cast<float>(stream.normal());
  double error = 0;
  for (uint64_t trial = 0; trial < 4; ++trial) {
    Bytes message;
    codec.encode(sample, Key(trial), message);
    ParameterSet decoded(sample.shared_layout());
    codec.decode(message, decoded);
    subtract(decoded.values(), sample.values(), decoded.values());
    error += squared_norm(decoded.values()) / squared_norm(sample.values()) / 4;
  }
  if (!(error < 1)) {
    fail("config", what, " needs a codec that loses less than it keeps; ", codec.describe(),
         " has a relative error of ", error,
         "; keep more, use more bits, or set error_feedback = \"none\"");
  }
}

void add_failures(const ServerTraffic& traffic, const char* when, RoundRecord& record) {
  for (const auto& [client, reason] : traffic.failures()) {
    if (record.failures.size() < 8)
      record.failures.push_back(concat("client ", client, when, ": ", reason));
  }
}

// Outputs of hidden layers times `scale`, as HeteroFL's scaler trains them.
void scale_hidden(ParameterSet& model, float scale) {
  for (const ParameterInfo& tensor : model.layout().tensors()) {
    const bool hidden = !tensor.units.empty() && tensor.units[0].axis == 0;
    if (!hidden || (tensor.role != Role::kWeight && tensor.role != Role::kBias)) continue;
    for (float& value : model.values(tensor)) value *= scale;
  }
}

}  // namespace

RoundLoop::RoundLoop(const Setup& setup, ParameterSet initial)
    : setup_(setup),
      plan_(setup.submodel, initial.shared_layout(), setup.devices),
      devices_(setup.devices, setup.backend.num_clients(),
               Key(static_cast<uint64_t>(setup.run.seed)).child(Purpose::kDevices)),
      global_(std::make_shared<ParameterSet>(std::move(initial))) {
  const uint64_t clients = setup_.backend.num_clients();
  if (!setup_.selection.device.empty()) eligible_ = devices_.clients_of(setup_.selection.device);
  const uint64_t eligible = setup_.selection.device.empty() ? clients : eligible_.size();
  if (static_cast<uint64_t>(setup_.selection.clients_per_round) > eligible) {
    fail("config", "strategy.clients_per_round is ", setup_.selection.clients_per_round,
         ", but there are only ", eligible, " clients",
         setup_.selection.device.empty() ? "" : " of device '" + setup_.selection.device + "'",
         "; lower it or raise data.partition.clients");
  }
  check_submodels();
  feedback_ = choose_feedback(setup_.run.error_feedback, setup_.uplink, setup_.strategy,
                              setup_.submodel, setup_.devices);
  if (setup_.run.delta_downlink) {
    delta_sender_ = std::make_unique<codec::DeltaSender>(setup_.downlink, global_->shared_layout());
  }
  ESPALIER_CHECK(setup_.states != nullptr || !clients_have_state());
  strategy::ServerSetup server = setup_.server;
  server.layout = global_->shared_layout();
  server.num_clients = clients;
  server.train = setup_.train;
  server.uplink = &setup_.uplink;
  server.key = Key(static_cast<uint64_t>(setup_.run.seed));
  setup_.strategy.start(server);
  if (feedback_ != Feedback::kNone) require_contraction(setup_.uplink, "error feedback (uplink)");
  if (delta_sender_) require_contraction(setup_.downlink, "delta_downlink");
  // A strategy that does not fit the training options says so now and not client by client.
  strategy::Task probe;
  probe.train = setup_.train;
  setup_.strategy.configure({1, static_cast<uint32_t>(setup_.run.rounds), Key(0), setup_.train},
                            global_, probe);
}

void RoundLoop::check_submodels() const {
  const char* const kMasksAdvice =
      setup_.selection.name == "adp" ? ", or set strategy.sparse_updates = false" : "";
  if (setup_.strategy.masks()) {
    if (setup_.run.delta_downlink)
      fail("config", "delta_downlink does not go with strategy '", setup_.selection.name,
           "': its masks change what a model consists of", kMasksAdvice);
    if (plan_.active())
      fail("config", "[submodel] does not go with strategy '", setup_.selection.name,
           "', which decides itself what travels; remove one of the two", kMasksAdvice);
  }
  if (setup_.strategy.keeps_encoded()) {
    if (setup_.run.delta_downlink)
      fail("config", "delta_downlink is for weights that travel every round; strategy '",
           setup_.selection.name, "' sends them once");
    if (plan_.active())
      fail("config", "[submodel] does not go with strategy '", setup_.selection.name,
           "': its clients' nets are not averaged");
  }
  if (all_whole(setup_.submodel, setup_.devices)) return;
  if (setup_.run.delta_downlink)
    fail("config", "delta_downlink does not go with [submodel]: clients hold different parts");
  if (!setup_.strategy.has_client_state()) return;
  // One ratio for all: with several, few clients hold the later units, and state that is averaged
  // over the population (SCAFFOLD's c) would count the others as zeros.
  double keep = 0;
  bool one = true;
  for (const DeviceOptions& device : devices_.devices()) {
    const double mine = keep_of(setup_.submodel, device);
    one = one && (keep == 0 || keep == mine);
    keep = mine;
  }
  if (!units_stay(setup_.submodel, setup_.devices) || !one) {
    fail("config", "strategy '", setup_.selection.name,
         "' keeps state with its clients, which must "
         "then all train the same units in every round; set submodel.name = \"ordered\" with one "
         "keep for all");
  }
}

bool RoundLoop::clients_have_state() const {
  return setup_.strategy.has_client_state() || feedback_ != Feedback::kNone ||
         delta_sender_ != nullptr;
}

bool RoundLoop::evaluates(uint32_t round) const {
  const bool last = round == static_cast<uint32_t>(setup_.run.rounds);
  return last ||
         (setup_.run.eval_every > 0 && round % static_cast<uint32_t>(setup_.run.eval_every) == 0);
}

std::vector<uint64_t> RoundLoop::draw_clients(Key key, uint64_t count) const {
  std::vector<uint64_t> clients = sample_without_replacement(
      key.child(Purpose::kSelection),
      eligible_.empty() ? setup_.backend.num_clients() : eligible_.size(), count);
  if (!eligible_.empty()) {
    for (uint64_t& client : clients) client = eligible_[client];
  }
  return clients;
}

double RoundLoop::max_weight(std::span<const uint64_t> clients) const {
  double weight = 1;
  for (const uint64_t client : clients)
    weight = std::max(weight, static_cast<double>(setup_.backend.num_samples(client)));
  return weight;
}

ServerTraffic::Setup RoundLoop::traffic_setup(const strategy::RoundInfo& info) const {
  return {info,          setup_.strategy, setup_.downlink,
          setup_.uplink, setup_.backend,  plan_,
          devices_,      global_,         state_versions_,
          feedback_,     &estimates_,     delta_sender_.get(),
          on_client};
}

// The exchange before a round in which some clients look around for the strategy.
void RoundLoop::explore(const strategy::RoundInfo& round, uint64_t count, RoundRecord& record) {
  strategy::RoundInfo info = round;
  info.kind = strategy::TaskKind::kExplore;
  info.key = round.key.child(Purpose::kExploration);
  const std::vector<uint64_t> clients = draw_clients(
      info.key,
      std::min(count, eligible_.empty() ? setup_.backend.num_clients() : eligible_.size()));
  ServerTraffic traffic(traffic_setup(info), clients.size(), max_weight(clients));
  setup_.backend.run(clients, traffic);
  add_failures(traffic, " (exploration)", record);
  if (traffic.answered().empty()) {
    throw RoundFailed(concat("[round] all ", clients.size(), " explorers of round ", info.round,
                             " failed; ", record.failures.front()));
  }
  record.exploration = {traffic.answered().size(), traffic.bytes_down(), traffic.bytes_up(),
                        traffic.sums().sum(strategy::kMacs)};
  record.bytes_down += traffic.bytes_down();
  record.bytes_up += traffic.bytes_up();
  record.macs += record.exploration.macs;
  record.client_seconds += traffic.sums().sum(strategy::kTrainSeconds);
  record.simulated = traffic.slowest();
  setup_.strategy.finish(info, traffic.sums(), *global_);
}

RoundRecord RoundLoop::run_round() {
  ESPALIER_CHECK(!finished());
  const Stopwatch wall;
  const uint32_t round = round_ + 1;
  const auto num_rounds = static_cast<uint32_t>(setup_.run.rounds);
  strategy::RoundInfo info{round, num_rounds,
                           Key(static_cast<uint64_t>(setup_.run.seed)).child(round), setup_.train};
  info.train.lr = train::lr_at_round(setup_.train, round - 1, num_rounds);
  info.evaluates = evaluates(round);

  if (!setup_.strategy.prepares()) return train_round(info, wall);
  Before before{*global_, {}};
  ByteWriter out(before.strategy);
  setup_.strategy.save(out);
  try {
    return train_round(info, wall);
  } catch (const RoundFailed&) {
    *global_ = std::move(before.global);
    ByteReader in(before.strategy, "round");
    setup_.strategy.load(in);
    throw;
  }
}

RoundRecord RoundLoop::train_round(const strategy::RoundInfo& info, const Stopwatch& wall) {
  const uint32_t round = info.round;
  RoundRecord record;
  record.round = round;
  const Stopwatch training;
  setup_.strategy.begin_round(info, *global_);
  if (const uint64_t explorers = setup_.strategy.explorers(info); explorers > 0)
    explore(info, explorers, record);

  const std::vector<uint64_t> clients =
      draw_clients(info.key, static_cast<uint64_t>(setup_.selection.clients_per_round));
  std::optional<ParameterSet> delta_before;
  if (delta_sender_ && delta_sender_->version() > 0) delta_before = delta_sender_->state();
  if (delta_sender_) delta_sender_->advance(*global_, info.key.child(Purpose::kDownlink));
  ServerTraffic traffic(traffic_setup(info), clients.size(), max_weight(clients));
  setup_.backend.run(clients, traffic);

  record.train_seconds = training.seconds();
  record.clients = clients.size();
  record.clients_failed = traffic.failures().size();
  add_failures(traffic, "", record);
  if (traffic.answered().empty()) {
    if (delta_sender_) set_downlink_state(std::move(delta_before));
    throw RoundFailed(concat("[round] all ", clients.size(), " clients of round ", round,
                             " failed; ", record.failures.front()));
  }
  record.bytes_down += traffic.bytes_down();
  record.bytes_up += traffic.bytes_up();
  record.lr = info.train.lr;
  record.macs += traffic.sums().sum(strategy::kMacs);
  record.client_seconds += traffic.sums().sum(strategy::kTrainSeconds);
  record.train_loss = traffic.sums().weighted_mean(strategy::kTrainLoss);
  record.train_accuracy = traffic.sums().weighted_mean(strategy::kTrainAccuracy);

  finish(info, traffic.sums());
  if (feedback_ == Feedback::kEf21) {
    for (const std::string& payload : traffic.sums().payloads()) {
      estimates_.insert_or_assign(payload, traffic.sums().mean(payload, global_->shared_layout()));
    }
  }
  if (!all_finite(global_->values())) {
    fail("round", "the global model is no longer finite after round ", round,
         "; lower train.lr or strategy.server_lr");
  }
  if (clients_have_state()) {
    for (uint64_t client : traffic.answered()) {
      state_versions_[client] = round;
      uncommitted_.push_back(client);
    }
  }
  record.simulated = record.simulated + traffic.slowest();
  record.extra = setup_.strategy.metrics();
  record.notes = setup_.strategy.take_notes();
  if (evaluates(round)) {
    if (plan_.options().static_batch_norm)
      collect_statistics(info, traffic.answered(), 1, *global_, record);
    evaluate(info, traffic.answered(), record);
  }
  record.seconds = wall.seconds();
  round_ = round;
  ledger_.add(record, setup_.run.target_accuracy);
  return record;
}

// The strategy's server half. A server optimizer moves weights by its momentum too; what no client
// of the round has trained keeps its bits all the same.
void RoundLoop::finish(const strategy::RoundInfo& info, const strategy::RoundSums& sums) {
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
  const Stopwatch evaluation;
  const auto own = setup_.strategy.evaluated();
  const auto part = setup_.strategy.part();
  const train::EvalSums sums =
      own ? *own : setup_.backend.evaluate(part ? part->extract(*global_) : *global_);
  if (sums.count > 0) {
    record.accuracy = static_cast<double>(sums.correct) / static_cast<double>(sums.count);
    // A model may be finite and its loss not; then there is no number to report.
    if (std::isfinite(sums.loss)) record.loss = sums.loss / static_cast<double>(sums.count);
  }
  for (const double width : plan_.options().eval_widths) {
    const auto submodel = plan_.at_width(width);
    train::EvalSums narrow = sums;
    if (submodel) {
      ParameterSet model = submodel->extract(*global_);
      if (plan_.options().static_batch_norm)
        collect_statistics(info, clients, width, model, record);
      if (plan_.options().scaler) scale_hidden(model, static_cast<float>(1 / width));
      narrow = setup_.backend.evaluate(model);
    }
    if (narrow.count > 0) {
      record.width_accuracy[width] =
          static_cast<double>(narrow.correct) / static_cast<double>(narrow.count);
    }
  }
  record.eval_seconds = evaluation.seconds();
}

// Only clients whose own sub-model is at least as wide can hold this one.
void RoundLoop::collect_statistics(const strategy::RoundInfo& info,
                                   std::span<const uint64_t> clients, double width,
                                   ParameterSet& model, RoundRecord& record) {
  std::vector<uint64_t> able;
  for (const uint64_t client : clients) {
    if (plan_.keep(devices_, client) >= width) able.push_back(client);
  }
  if (able.empty()) return;
  std::sort(able.begin(), able.end());
  const bool whole = model.layout() == global_->layout();
  StatisticsTraffic traffic({info, setup_.downlink, setup_.uplink, setup_.backend, devices_,
                             std::make_shared<ParameterSet>(model),
                             whole ? std::vector<int64_t>{} : model.layout().group_sizes()},
                            able.size(), max_weight(able));
  setup_.backend.run(able, traffic);
  traffic.finish(model);
  record.bytes_down += traffic.bytes_down;
  record.bytes_up += traffic.bytes_up;
  record.macs += traffic.macs();
  record.simulated = record.simulated + traffic.slowest;
  for (const auto& [client, reason] : traffic.failures) {
    if (record.failures.size() < 8)
      record.failures.push_back(concat("client ", client, " (statistics): ", reason));
  }
}

Checkpoint RoundLoop::checkpoint(uint64_t configuration) const {
  if (setup_.states != nullptr) setup_.states->make_durable();
  Checkpoint checkpoint{configuration,   round_,     ledger_, *global_, {},
                        state_versions_, estimates_, {}};
  if (delta_sender_ && delta_sender_->version() > 0)
    checkpoint.downlink_state = delta_sender_->state();
  ByteWriter out(checkpoint.strategy);
  setup_.strategy.save(out);
  return checkpoint;
}

void RoundLoop::checkpoint_written() {
  if (setup_.states != nullptr) {
    for (uint64_t client : uncommitted_) setup_.states->commit(client, state_versions_.at(client));
  }
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
  ByteReader in(checkpoint.strategy, "round/checkpoint");
  setup_.strategy.load(in);
  in.finish();
}

}  // namespace espalier::round

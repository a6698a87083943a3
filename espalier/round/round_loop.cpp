#include "espalier/round/round_loop.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <optional>

#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/round/statistics_traffic.h"

namespace espalier::round {

// The server's side of one round's messages.
class RoundLoop::Traffic : public RoundTraffic {
 public:
  Traffic(RoundLoop& loop, const strategy::RoundInfo& info, std::span<const uint64_t> clients,
          double max_weight)
      : loop_(loop),
        info_(info),
        num_clients_(clients.size()),
        sums_(clients.size(), max_weight, loop.plan_.aggregation()),
        limits_{loop.global_->shared_layout(), loop.global_->layout().size() * 4 + 1024} {
    if (loop_.feedback_ == Feedback::kEf21)
      sums_.use_estimates(loop_.estimates_, loop_.setup_.backend.num_clients());
  }

  EncodedMessage task(uint64_t client) override {
    strategy::Task task;
    task.round = info_.round;
    task.client = client;
    if (const auto found = loop_.state_versions_.find(client);
        found != loop_.state_versions_.end()) {
      task.state_version = found->second;
    }
    task.train = info_.train;
    const double keep = loop_.plan_.keep(loop_.devices_, client);
    const auto submodel = loop_.plan_.choose(info_, client, keep);
    {
      const std::lock_guard lock(configure_mutex_);
      loop_.setup_.strategy.configure(info_, loop_.global_, task);
    }
    // What nobody else receives is not kept once it is sent.
    const bool own = submodel != nullptr && loop_.plan_.differs_by_client();
    WireLimits limits = limits_;
    Key codec_key = info_.key.child(Purpose::kDownlink);
    if (submodel) {
      task.units = submodel->units();
      limits.model = submodel->layout();
      for (strategy::Payload& payload : task.payloads) {
        if (payload.values->layout() == loop_.global_->layout())
          payload.values = extracted(submodel, payload.values);
      }
      // Sub-models of their own lose different things, so that the losses average out.
      if (own) codec_key = codec_key.child(client);
    }
    if (loop_.plan_.active()) {
      task.submodel_training = loop_.plan_.training(keep);
      if (!submodel && !(task.submodel_training == train::SubmodelTraining{}))
        task.units = loop_.global_->layout().group_sizes();
    }
    std::shared_ptr<const Bytes> delta;
    if (loop_.delta_sender_) {
      const auto held = task.state_version > 0 ? std::optional(task.state_version) : std::nullopt;
      const auto bytes = loop_.delta_sender_->message_for(held);
      delta = std::make_shared<Bytes>(bytes.begin(), bytes.end());
    }
    EncodedMessage message = encode_task(task, info_.key.child(client), loop_.setup_.downlink,
                                         codec_key, limits, &encoded_, std::move(delta));
    bytes_down_ += message.size_bytes();
    const std::lock_guard lock(mutex_);
    sent_[client] = {submodel, message.size_bytes()};
    return message;
  }

  void delivered(uint64_t client, const EncodedMessage& message) override {
    bytes_up_ += message.size_bytes();
    DeviceTimes times;
    try {
      const Sent sent = sent_to(client);
      WireLimits limits = limits_;
      if (sent.submodel) limits.model = sent.submodel->layout();
      limits.max_values = loop_.setup_.strategy.max_values(
          *limits.model, static_cast<double>(loop_.setup_.backend.num_samples(client)));
      limits.keep_encoded = loop_.setup_.strategy.keeps_encoded();
      limits.max_payloads =
          limits.keep_encoded ? 16 : loop_.setup_.strategy.update_payloads().size();
      strategy::Update update = decode_update(message, loop_.setup_.uplink, limits);
      check(client, update, *limits.model);
      update.submodel = sent.submodel;
      const auto macs = update.scalars.find(strategy::kMacs);
      times = device_times(loop_.devices_.of(client), sent.bytes,
                           macs == update.scalars.end() ? 0 : macs->second, message.size_bytes());
      if (loop_.feedback_ == Feedback::kEf21) {
        for (strategy::Payload& payload : update.payloads)
          payload.weight = 1;  // its mean is over all clients, uniformly
      }
      loop_.setup_.strategy.accumulate(info_, client, update, sums_);
    } catch (const StorageError&) {
      throw;  // ours, not the client's: the run cannot go on
    } catch (const Error& error) {
      failed(client, error.what());
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      answered_.push_back(client);
      if (times.total() > slowest_.total()) slowest_ = times;
    }
    one_done();
  }

  void failed(uint64_t client, const std::string& reason) override {
    {
      const std::lock_guard lock(mutex_);
      failures_[client] = reason;
    }
    one_done();
  }

  uint64_t bytes_down() const { return bytes_down_; }
  uint64_t bytes_up() const { return bytes_up_; }
  const strategy::RoundSums& sums() const { return sums_; }
  const std::map<uint64_t, std::string>& failures() const { return failures_; }
  const std::vector<uint64_t>& answered() const { return answered_; }
  // Of the client that a round of real devices would have waited for longest.
  const DeviceTimes& slowest() const { return slowest_; }

 private:
  struct Sent {
    std::shared_ptr<const submodel::Submodel> submodel;  // null: the whole model
    uint64_t bytes = 0;
  };

  Sent sent_to(uint64_t client) {
    const std::lock_guard lock(mutex_);
    const auto found = sent_.find(client);
    if (found == sent_.end()) fail("round/update", "client ", client, " was sent no task");
    return found->second;
  }

  // A part of a payload; clients with the same sub-model share it, so that it is encoded once.
  std::shared_ptr<const ParameterSet> extracted(
      const std::shared_ptr<const submodel::Submodel>& submodel,
      const std::shared_ptr<const ParameterSet>& values) {
    const auto extract = [&] { return std::make_shared<ParameterSet>(submodel->extract(*values)); };
    if (loop_.plan_.differs_by_client()) return extract();
    const std::lock_guard lock(extract_mutex_);
    auto& part = extracted_[{submodel.get(), values.get()}];
    if (!part) part = extract();
    return part;
  }

  // A peer may send anything; what it sends must not reach an invariant of ours.
  void check(uint64_t client, const strategy::Update& update, const ParameterLayout& layout) const {
    constexpr double kMaxScalar = 1e18;
    const auto held = static_cast<double>(loop_.setup_.backend.num_samples(client));
    if (update.num_samples != held)
      fail("round/update", "expected ", held, " samples, got ", update.num_samples);
    loop_.setup_.strategy.check(layout, held, update);
    for (const auto& [name, value] : update.scalars) {
      if (!(std::abs(value) <= kMaxScalar))
        fail("round/update", "the scalar '", name, "' is out of range: ", value);
    }
    for (const char* name : {strategy::kMacs, strategy::kTrainSeconds}) {
      const auto found = update.scalars.find(name);
      if (found != update.scalars.end() && found->second < 0)
        fail("round/update", "the scalar '", name, "' is negative: ", found->second);
    }
  }

  void one_done() {
    const uint64_t done = ++done_;
    if (loop_.on_client) loop_.on_client(done, num_clients_);
  }

  RoundLoop& loop_;
  const strategy::RoundInfo& info_;
  uint64_t num_clients_;
  strategy::RoundSums sums_;
  WireLimits limits_;
  EncodedBodies encoded_;
  std::mutex configure_mutex_, extract_mutex_, mutex_;
  std::map<std::pair<const void*, const void*>, std::shared_ptr<const ParameterSet>> extracted_;
  std::map<uint64_t, Sent> sent_;
  DeviceTimes slowest_;
  std::atomic<uint64_t> bytes_down_ = 0, bytes_up_ = 0, done_ = 0;
  std::map<uint64_t, std::string> failures_;
  std::vector<uint64_t> answered_;
};

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

RoundRecord RoundLoop::run_round() {
  ESPALIER_CHECK(!finished());
  const Stopwatch wall;
  const uint32_t round = round_ + 1;
  const auto num_rounds = static_cast<uint32_t>(setup_.run.rounds);
  strategy::RoundInfo info{round, num_rounds,
                           Key(static_cast<uint64_t>(setup_.run.seed)).child(round), setup_.train};
  info.train.lr = train::lr_at_round(setup_.train, round - 1, num_rounds);
  info.evaluates = evaluates(round);

  std::vector<uint64_t> clients = sample_without_replacement(
      info.key.child(Purpose::kSelection),
      eligible_.empty() ? setup_.backend.num_clients() : eligible_.size(),
      static_cast<uint64_t>(setup_.selection.clients_per_round));
  if (!eligible_.empty()) {
    for (uint64_t& client : clients) client = eligible_[client];
  }
  double max_weight = 1;
  for (uint64_t client : clients) {
    max_weight = std::max(max_weight, static_cast<double>(setup_.backend.num_samples(client)));
  }
  std::optional<ParameterSet> delta_before;
  if (delta_sender_ && delta_sender_->version() > 0) delta_before = delta_sender_->state();
  if (delta_sender_) delta_sender_->advance(*global_, info.key.child(Purpose::kDownlink));
  Traffic traffic(*this, info, clients, max_weight);
  const Stopwatch training;
  setup_.backend.run(clients, traffic);

  RoundRecord record;
  record.round = round;
  record.train_seconds = training.seconds();
  record.clients = clients.size();
  record.clients_failed = traffic.failures().size();
  for (const auto& [client, reason] : traffic.failures()) {
    if (record.failures.size() < 8)
      record.failures.push_back(concat("client ", client, ": ", reason));
  }
  if (traffic.answered().empty()) {
    if (delta_sender_) set_downlink_state(std::move(delta_before));
    throw RoundFailed(concat("[round] all ", clients.size(), " clients of round ", round,
                             " failed; ", record.failures.front()));
  }
  record.bytes_down = traffic.bytes_down();
  record.bytes_up = traffic.bytes_up();
  record.lr = info.train.lr;
  record.macs = traffic.sums().sum(strategy::kMacs);
  record.client_seconds = traffic.sums().sum(strategy::kTrainSeconds);
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
  record.simulated = traffic.slowest();
  record.extra = setup_.strategy.metrics();
  if (evaluates(round)) {
    if (plan_.options().static_batch_norm)
      collect_statistics(info, traffic.answered(), 1, *global_, record);
    evaluate(info, traffic.answered(), record);
  }
  record.seconds = wall.seconds();
  round_ = round;
  ledger_.add(record);
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
  const train::EvalSums sums = own ? *own : setup_.backend.evaluate(*global_);
  if (sums.count > 0) {
    record.accuracy = static_cast<double>(sums.correct) / static_cast<double>(sums.count);
    // A model may be finite and its loss not; then there is no number to report.
    if (std::isfinite(sums.loss)) record.loss = sums.loss / static_cast<double>(sums.count);
  }
  for (const double width : plan_.options().eval_widths) {
    const auto submodel = plan_.at_width(width);
    train::EvalSums part = sums;
    if (submodel) {
      ParameterSet model = submodel->extract(*global_);
      if (plan_.options().static_batch_norm)
        collect_statistics(info, clients, width, model, record);
      if (plan_.options().scaler) scale_hidden(model, static_cast<float>(1 / width));
      part = setup_.backend.evaluate(model);
    }
    if (part.count > 0) {
      record.width_accuracy[width] =
          static_cast<double>(part.correct) / static_cast<double>(part.count);
    }
  }
  record.eval_seconds = evaluation.seconds();
}

// Only clients whose own sub-model is at least as wide can hold this one.
void RoundLoop::collect_statistics(const strategy::RoundInfo& info,
                                   std::span<const uint64_t> clients, double width,
                                   ParameterSet& model, RoundRecord& record) {
  std::vector<uint64_t> able;
  double max_weight = 1;
  for (const uint64_t client : clients) {
    if (plan_.keep(devices_, client) < width) continue;
    able.push_back(client);
    max_weight = std::max(max_weight, static_cast<double>(setup_.backend.num_samples(client)));
  }
  if (able.empty()) return;
  std::sort(able.begin(), able.end());
  const bool whole = model.layout() == global_->layout();
  StatisticsTraffic traffic({info, setup_.downlink, setup_.uplink, setup_.backend, devices_,
                             std::make_shared<ParameterSet>(model),
                             whole ? std::vector<int64_t>{} : model.layout().group_sizes()},
                            able.size(), max_weight);
  setup_.backend.run(able, traffic);
  traffic.finish(model);
  record.bytes_down += traffic.bytes_down;
  record.bytes_up += traffic.bytes_up;
  record.macs += traffic.macs();
  record.simulated.down += traffic.slowest.down;
  record.simulated.compute += traffic.slowest.compute;
  record.simulated.up += traffic.slowest.up;
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

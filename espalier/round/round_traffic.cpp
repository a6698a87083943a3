#include "espalier/round/round_traffic.h"

#include <cmath>

#include "espalier/base/error.h"

namespace espalier::round {

ServerTraffic::ServerTraffic(const Setup& setup, uint64_t num_clients, double max_weight)
    : setup_(setup),
      num_clients_(num_clients),
      sums_(num_clients, max_weight, setup.plan.aggregation()),
      limits_{setup.global->shared_layout(), setup.global->layout().size() * 4 + 1024} {
  if (setup_.feedback == Feedback::kEf21 && !exploring())
    sums_.use_estimates(*setup_.estimates, setup_.backend.num_clients());
}

EncodedMessage ServerTraffic::task(uint64_t client) {
  const strategy::RoundInfo& info = setup_.info;
  strategy::Task task;
  task.kind = info.kind;
  task.round = info.round;
  task.client = client;
  const auto version = setup_.state_versions.find(client);
  if (version != setup_.state_versions.end()) task.state_version = version->second;
  task.train = info.train;
  const double keep = setup_.plan.keep(setup_.devices, client);
  {
    const std::lock_guard lock(configure_mutex_);
    setup_.strategy.configure(info, setup_.global, task);
  }
  // What nobody else receives is not kept once it is sent.
  const bool own = task.submodel == nullptr && setup_.plan.differs_by_client();
  const auto submodel =
      task.submodel != nullptr ? task.submodel : setup_.plan.choose(info, client, keep);
  WireLimits limits = limits_;
  Key codec_key = info.key.child(Purpose::kDownlink);
  if (submodel) {
    task.units = submodel->units();
    limits.model = submodel->layout();
    for (strategy::Payload& payload : task.payloads) {
      if (payload.values->layout() == setup_.global->layout())
        payload.values = extracted(submodel, own, payload.values);
    }
    // Sub-models of their own lose different things, so that the losses average out.
    if (own) codec_key = codec_key.child(client);
  }
  if (setup_.plan.active()) {
    task.submodel_training = setup_.plan.training(keep);
    if (!submodel && !(task.submodel_training == train::SubmodelTraining{}))
      task.units = setup_.global->layout().group_sizes();
  }
  std::shared_ptr<const Bytes> delta;
  if (setup_.delta_sender != nullptr) {
    const auto held = task.state_version > 0 ? std::optional(task.state_version) : std::nullopt;
    const auto bytes = setup_.delta_sender->message_for(held);
    delta = std::make_shared<Bytes>(bytes.begin(), bytes.end());
  }
  EncodedMessage message = encode_task(task, info.key.child(client), setup_.downlink, codec_key,
                                       limits, &encoded_, std::move(delta));
  bytes_down_ += message.size_bytes();
  const std::lock_guard lock(mutex_);
  sent_[client] = {submodel, task.mask, message.size_bytes()};
  return message;
}

void ServerTraffic::delivered(uint64_t client, const EncodedMessage& message) {
  bytes_up_ += message.size_bytes();
  DeviceTimes times;
  try {
    const Sent sent = sent_to(client);
    WireLimits limits = limits_;
    if (sent.submodel) limits.model = sent.submodel->layout();
    limits.mask = sent.mask;
    limits.max_values = setup_.strategy.max_values(
        *limits.model, static_cast<double>(setup_.backend.num_samples(client)));
    limits.keep_encoded = setup_.strategy.keeps_encoded();
    limits.max_payloads =
        limits.keep_encoded ? 16 : setup_.strategy.update_payloads(setup_.info).size();
    strategy::Update update =
        decode_update(message, uplink_of(setup_.info.kind, setup_.uplink), limits);
    check(client, update, *limits.model);
    update.submodel = sent.submodel;
    const auto macs = update.scalars.find(strategy::kMacs);
    times = device_times(setup_.devices.of(client), sent.bytes,
                         macs == update.scalars.end() ? 0 : macs->second, message.size_bytes());
    if (setup_.feedback == Feedback::kEf21 && !exploring()) {
      for (strategy::Payload& payload : update.payloads)
        payload.weight = 1;  // its mean is over all clients, uniformly
    }
    setup_.strategy.accumulate(setup_.info, client, update, sums_);
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

void ServerTraffic::failed(uint64_t client, const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    failures_[client] = reason;
  }
  one_done();
}

ServerTraffic::Sent ServerTraffic::sent_to(uint64_t client) {
  const std::lock_guard lock(mutex_);
  const auto found = sent_.find(client);
  if (found == sent_.end()) fail("round/update", "client ", client, " was sent no task");
  return found->second;
}

// A part of a payload; clients with the same sub-model share it, so that it is encoded once.
std::shared_ptr<const ParameterSet> ServerTraffic::extracted(
    const std::shared_ptr<const submodel::Submodel>& submodel, bool own,
    const std::shared_ptr<const ParameterSet>& values) {
  const auto extract = [&] { return std::make_shared<ParameterSet>(submodel->extract(*values)); };
  if (own) return extract();
  const std::lock_guard lock(extract_mutex_);
  auto& part = extracted_[{submodel.get(), values.get()}];
  if (!part) part = extract();
  return part;
}

// A peer may send anything; what it sends must not reach an invariant of ours.
void ServerTraffic::check(uint64_t client, const strategy::Update& update,
                          const ParameterLayout& layout) const {
  constexpr double kMaxScalar = 1e18;
  const auto held = static_cast<double>(setup_.backend.num_samples(client));
  if (update.num_samples != held)
    fail("round/update", "expected ", held, " samples, got ", update.num_samples);
  setup_.strategy.check(setup_.info, layout, held, update);
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

void ServerTraffic::one_done() {
  const uint64_t done = ++done_;
  if (setup_.on_client) setup_.on_client(done, num_clients_);
}

}  // namespace espalier::round

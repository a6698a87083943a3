#include "espalier/round/exchange.h"

#include <cmath>
#include <vector>

#include "espalier/base/error.h"

namespace espalier::round {

namespace {

// Measurements that a client says of itself.
double measurement(const wire::Update& update, const char* name) {
  const auto found = update.scalars.find(name);
  return found == update.scalars.end() ? 0 : found->second;
}

}  // namespace

// A peer may send anything; what it sends must not reach an invariant of ours.
void check_claims(const wire::Update& update, double held) {
  constexpr double kMaxScalar = 1e18;
  if (update.num_samples != held)
    fail("round/update", "expected ", held, " samples, got ", update.num_samples);
  for (const auto& [name, value] : update.scalars) {
    if (!(std::abs(value) <= kMaxScalar))
      fail("round/update", "the scalar '", name, "' is out of range: ", value);
  }
  for (const char* name : {wire::kMacs, wire::kTrainSeconds}) {
    if (measurement(update, name) < 0)
      fail("round/update", "the scalar '", name, "' is negative: ", measurement(update, name));
  }
}

void Errand::count(uint64_t, const wire::Update&) { ESPALIER_CHECK(false); }
ExactAccumulator& Errand::sum(const std::string& payload) {
  fail("round/exchange", "'", payload, "' has no sums");
}

Exchange::Exchange(const Setup& setup, std::span<const uint64_t> clients, Errand& errand)
    : setup_(setup), errand_(errand) {
  for (const uint64_t client : clients) states_.emplace(client, State{});
}

wire::EncodedMessage Exchange::task(uint64_t client) {
  {
    const std::lock_guard lock(mutex_);
    if (!states_.contains(client))
      fail("round/exchange", "client ", client, " has no task in round ", setup_.round);
  }
  Outgoing outgoing = errand_.prepare(client);
  outgoing.task.kind = errand_.kind();
  outgoing.task.round = setup_.round;
  outgoing.task.exchange = setup_.number;
  outgoing.task.client = client;
  // Statistics go into the model as it is, so they are of that.
  if (setup_.exact_tasks || errand_.kind() == wire::TaskKind::kCalibrate) {
    for (wire::Payload& payload : outgoing.task.payloads) payload.coding = wire::Coding::kExact;
  }
  wire::WireLimits limits;
  limits.model = outgoing.submodel ? outgoing.submodel->layout() : setup_.layout;
  wire::EncodedMessage message =
      encode_task(outgoing.task, setup_.key.child(client), setup_.downlink, outgoing.codec_key,
                  limits, outgoing.own ? nullptr : &encoded_, std::move(outgoing.model_delta));
  const std::lock_guard lock(mutex_);
  State& state = states_.at(client);
  if (!state.asked) bytes_down_ += message.size_bytes();
  state.asked = true;
  state.sent = {outgoing.submodel, outgoing.task.mask, message.size_bytes()};
  return message;
}

bool Exchange::begin_delivery(uint64_t client, const std::optional<wire::TaskId>& answers,
                              Sent& sent) {
  const bool answers_this =
      !answers || *answers == wire::TaskId{setup_.round, setup_.number, client};
  const std::lock_guard lock(mutex_);
  const auto found = states_.find(client);
  if (found == states_.end() || !answers_this || !found->second.asked ||
      found->second.wait != Wait::kAwaited) {
    ++refused_;
    return false;
  }
  found->second.wait = Wait::kDelivering;
  sent = found->second.sent;
  return true;
}

wire::Update Exchange::decode(uint64_t client, const Sent& sent,
                              const wire::EncodedMessage& message) const {
  wire::Update update = decode_update(message, setup_.uplink, errand_.limits(client, sent));
  check_claims(update, static_cast<double>(setup_.backend.num_samples(client)));
  return update;
}

Receipt Exchange::delivered(uint64_t client, const wire::EncodedMessage& message) {
  std::optional<wire::TaskId> answers;
  try {
    answers = answered_task(message);
  } catch (const Error&) {
    // What cannot be read is the client's failure and found out when it is decoded.
  }
  Sent sent;
  if (!begin_delivery(client, answers, sent)) return Receipt::kRefused;
  return take(client, sent, message.size_bytes(), [&] {
    wire::Update update = decode(client, sent, message);
    update.submodel = sent.submodel;
    errand_.accept(client, sent, update);
    return update;
  });
}

bool Exchange::summable(uint64_t client) const {
  const std::lock_guard lock(mutex_);
  const auto found = states_.find(client);
  return found != states_.end() && found->second.asked && found->second.sent.submodel == nullptr &&
         found->second.sent.mask == nullptr;
}

Receipt Exchange::summed(uint64_t client, const wire::Update& update, uint64_t size) {
  Sent sent;
  if (!begin_delivery(client, update.answers, sent)) return Receipt::kRefused;
  return take(client, sent, size, [&] {
    check_claims(update, static_cast<double>(setup_.backend.num_samples(client)));
    errand_.count(client, update);
    return update;
  });
}

Receipt Exchange::take(uint64_t client, const Sent& sent, uint64_t size,
                       const std::function<wire::Update()>& accept) {
  DeviceTimes times;
  double macs = 0, seconds = 0;
  try {
    const wire::Update update = accept();
    macs = measurement(update, wire::kMacs);
    seconds = measurement(update, wire::kTrainSeconds);
    times = device_times(setup_.devices.of(client), sent.bytes, macs, size);
  } catch (const StorageError&) {
    throw;  // ours, not the client's: the run cannot go on
  } catch (const Error& error) {
    std::unique_lock lock(mutex_);
    bytes_up_ += size;
    settle(client, Wait::kFailed, error.what(), std::move(lock));
    return Receipt::kFaulty;
  }
  std::unique_lock lock(mutex_);
  bytes_up_ += size;
  State& state = states_.at(client);
  state.macs = macs;
  state.seconds = seconds;
  if (times.total() > slowest_.total()) slowest_ = times;
  settle(client, Wait::kDelivered, {}, std::move(lock));
  return Receipt::kCounted;
}

void Exchange::failed(uint64_t client, const std::string& reason) {
  std::unique_lock lock(mutex_);
  const auto found = states_.find(client);
  if (found == states_.end() || found->second.wait != Wait::kAwaited) {
    ++refused_;
    return;
  }
  settle(client, Wait::kFailed, reason, std::move(lock));
}

// The last thing that happens to a client.
void Exchange::settle(uint64_t client, Wait wait, const std::string& reason,
                      std::unique_lock<std::mutex> lock) {
  State& state = states_.at(client);
  state.wait = wait;
  state.sent = {};
  if (wait == Wait::kDelivered) {
    answered_.push_back(client);
  } else {
    failures_[client] = reason;
  }
  const uint64_t done = answered_.size() + failures_.size();
  lock.unlock();
  if (setup_.on_client != nullptr && *setup_.on_client) (*setup_.on_client)(done, states_.size());
}

void Exchange::run(Backend& backend) {
  std::vector<uint64_t> clients;
  for (const auto& [client, state] : states_) clients.push_back(client);
  backend.run(clients, *this);
  for (const uint64_t client : clients) {
    std::unique_lock lock(mutex_);
    if (states_.at(client).wait == Wait::kAwaited)
      settle(client, Wait::kFailed, kNoAnswer, std::move(lock));
  }
}

double Exchange::macs() const {
  double sum = 0;
  for (const auto& [client, state] : states_) sum += state.macs;
  return sum;
}

double Exchange::client_seconds() const {
  double sum = 0;
  for (const auto& [client, state] : states_) sum += state.seconds;
  return sum;
}

}  // namespace espalier::round

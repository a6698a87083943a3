#include "espalier/sim/loopback.h"

#include <atomic>
#include <map>
#include <mutex>

#include "espalier/base/error.h"

namespace espalier::sim {
namespace {

wire::EncodedMessage through_bytes(const wire::EncodedMessage& message) {
  const Bytes stream = write_stream(message);
  ESPALIER_CHECK(stream.size() == message.size_bytes(), stream.size(), message.size_bytes());
  return wire::read_stream(stream);
}

// Between the round and the backend that has the clients.
class Wire final : public round::RoundTraffic {
 public:
  using Messages = std::map<uint64_t, wire::EncodedMessage>;
  Wire(round::RoundTraffic& server, const LoopbackBackend::Script& script, uint64_t exchange,
       Messages stale)
      : server_(server), script_(script), exchange_(exchange), stale_(std::move(stale)) {}

  round::ExchangeId id() const override { return server_.id(); }
  wire::EncodedMessage task(uint64_t client) override {
    const LoopbackBackend::Event event = at(client);
    if (event.impatient) server_.delivered(client, wire::EncodedMessage{});
    wire::EncodedMessage message = server_.task(client);
    for (uint32_t i = 1; i < event.requests; ++i) {
      if (write_stream(server_.task(client)) != write_stream(message))
        fail("sim/loopback", "the task of client ", client, " has changed");
    }
    if (const auto old = stale_.find(client); old != stale_.end())
      server_.delivered(client, old->second);
    return through_bytes(message);
  }

  round::Receipt delivered(uint64_t client, const wire::EncodedMessage& update) override {
    const LoopbackBackend::Event event = at(client);
    if (event.stale) {
      const std::lock_guard lock(mutex_);
      for_next_[client] = through_bytes(update);
    }
    if (event.stops) stopped_ = true;
    if (event.fails || event.stale || event.stops) {
      server_.failed(client, "the connection was lost");
      return round::Receipt::kRefused;
    }
    if (event.late) {
      const std::lock_guard lock(mutex_);
      late_[client] = through_bytes(update);
      return round::Receipt::kCounted;
    }
    return deliver(client, through_bytes(update), event.deliveries);
  }

  void failed(uint64_t client, const std::string& reason) override {
    server_.failed(client, reason);
  }

  void deliver_late() {
    for (auto entry = late_.rbegin(); entry != late_.rend(); ++entry)
      deliver(entry->first, entry->second, at(entry->first).deliveries);
  }
  Messages take_stale() { return std::move(for_next_); }
  bool stopped() const { return stopped_; }

 private:
  LoopbackBackend::Event at(uint64_t client) const {
    return script_ ? script_(exchange_, client) : LoopbackBackend::Event{};
  }
  round::Receipt deliver(uint64_t client, const wire::EncodedMessage& update, uint32_t times) {
    const round::Receipt first = server_.delivered(client, update);
    for (uint32_t i = 1; i < times; ++i) server_.delivered(client, update);
    return first;
  }

  round::RoundTraffic& server_;
  const LoopbackBackend::Script& script_;
  uint64_t exchange_;
  std::mutex mutex_;
  std::atomic<bool> stopped_ = false;
  Messages stale_;  // not changed while messages pass
  Messages late_, for_next_;
};

}  // namespace

void LoopbackBackend::run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) {
  Wire wire(traffic, script_, exchanges_++, std::move(stale_));
  inner_.run(clients, wire);
  wire.deliver_late();
  stale_ = wire.take_stale();
  if (wire.stopped()) throw round::RoundFailed("[sim/loopback] the server was stopped");
}

}  // namespace espalier::sim

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>

#include "espalier/round/backend.h"

namespace espalier::sim {

// A network within the process: every message of another backend passes through its bytes and back,
// nothing is shared between the two sides, and a script may play what networks do. What a run ends
// with does not depend on it, unless clients fail.
class LoopbackBackend : public round::Backend {
 public:
  // What happens to a client in an exchange.
  struct Event {
    bool fails = false;       // its update is lost, and the connection with it
    uint32_t requests = 1;    // how often it asks for its task; at least 1
    uint32_t deliveries = 1;  // how often its update arrives; at least 1
    bool late = false;        // its update arrives after all others, the last client's first
    bool stale = false;       // as fails; its update arrives in the next exchange
    bool impatient = false;   // it sends an update of the exchange before it asks for its task
    bool stops = false;       // as fails; and the server stops, so that the exchange is none
  };
  // Exchanges are counted from 0. Called from any thread.
  using Script = std::function<Event(uint64_t exchange, uint64_t client)>;

  // `inner` outlives this.
  explicit LoopbackBackend(round::Backend& inner, Script script = {})
      : inner_(inner), script_(std::move(script)) {}

  uint64_t num_clients() const override { return inner_.num_clients(); }
  uint64_t num_samples(uint64_t client) const override { return inner_.num_samples(client); }
  std::vector<uint64_t> select(Key key, std::span<const uint64_t> eligible,
                               uint64_t count) override {
    return inner_.select(key, eligible, count);
  }
  void run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) override;
  void make_durable() override { inner_.make_durable(); }
  void commit(uint32_t round, const std::map<uint64_t, uint32_t>& versions) override {
    inner_.commit(round, versions);
  }
  void release_memory() override { inner_.release_memory(); }

 private:
  round::Backend& inner_;
  Script script_;
  uint64_t exchanges_ = 0;
  std::map<uint64_t, wire::EncodedMessage> stale_;  // of the exchange before, by client
};

}  // namespace espalier::sim

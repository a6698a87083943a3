#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/client/session.h"
#include "espalier/client/state_store.h"
#include "espalier/data/dataset.h"
#include "espalier/data/partition.h"
#include "espalier/round/backend.h"
#include "espalier/train/workers.h"

namespace espalier::sim {

// Many clients on the cores of one machine: every worker owns one model replica and runs one client
// at a time, with one thread each. Results do not depend on the number of workers or on which
// worker runs which client.
//
// A declared client costs nothing until it is selected; memory is that of the data, of the server,
// of one replica per worker (and size of sub-model), and of what clients remember.
class SimBackend : public round::Backend {
 public:
  // References outlive the backend.
  struct Setup {
    data::DataSource data;
    const data::Partition& partition;
    train::Workers& workers;
    client::StateStore& states;
    client::ClientEnvironment environment;  // `states` and `decoded` are set by the backend
  };
  explicit SimBackend(Setup setup);

  uint64_t num_clients() const override { return setup_.partition.num_clients(); }
  uint64_t num_samples(uint64_t client) const override {
    return setup_.partition.num_samples(client);
  }
  void run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) override;
  void make_durable() override { setup_.states.make_durable(); }
  void commit(uint32_t round, const std::map<uint64_t, uint32_t>& versions) override;
  void release_memory() override { setup_.workers.release(); }

  // For backends that share out the clients among several processes. One task of a client, bytes to
  // bytes, in a thread of workers(); throws Error when the client fails, StorageError when we do.
  wire::EncodedMessage answer(uint64_t client, const wire::EncodedMessage& task, size_t worker);
  // The exchange is over: tensors that its tasks shared may go.
  void forget() { decoded_.clear(); }
  train::Workers& workers() { return setup_.workers; }
  const codec::Codec& uplink() const { return setup_.environment.uplink; }
  client::StateStore& states() { return setup_.states; }
  // Where clients remember from here on; outlives this.
  void remember_in(client::ClientStateStore& states) { setup_.environment.states = &states; }

 private:
  // Of the current client; reused.
  struct Samples {
    std::vector<uint32_t> train, test;
  };
  void run_client(uint64_t client, size_t worker, round::RoundTraffic& traffic);
  std::span<const uint32_t> test_samples(uint64_t client, std::vector<uint32_t>& samples) const;

  Setup setup_;
  wire::DecodedBodies decoded_;
  std::vector<Samples> samples_;  // by worker
};

}  // namespace espalier::sim

#include "espalier/sim/sim_backend.h"

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier::sim {

SimBackend::SimBackend(Setup setup) : setup_(std::move(setup)), samples_(setup_.workers.size()) {
  setup_.environment.states = &setup_.states;
  setup_.environment.decoded = &decoded_;
}

void SimBackend::run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) {
  // The longest work first, so that no worker starts a large client when the others are done. Sums
  // do not depend on the order.
  std::vector<uint64_t> order(clients.begin(), clients.end());
  std::stable_sort(order.begin(), order.end(),
                   [&](uint64_t a, uint64_t b) { return num_samples(a) > num_samples(b); });
  setup_.workers.run(order.size(), [&](size_t index, size_t worker) {
    run_client(order[index], worker, traffic);
  });
  decoded_.clear();
}

void SimBackend::run_client(uint64_t client, size_t worker, round::RoundTraffic& traffic) {
  wire::EncodedMessage update;
  try {
    update = answer(client, traffic.task(client), worker);
  } catch (const StorageError&) {
    throw;  // ours, not the client's: the run cannot go on
  } catch (const Error& error) {
    traffic.failed(client, error.what());
    return;
  }
  traffic.delivered(client, update);
}

wire::EncodedMessage SimBackend::answer(uint64_t client, const wire::EncodedMessage& task,
                                        size_t worker) {
  Samples& mine = samples_[worker];
  setup_.partition.samples(client, mine.train);
  return client::run_client_task(
      task, setup_.environment,
      [&](std::span<const int64_t> units) -> train::Trainer& {
        return setup_.workers.trainer(worker, units);
      },
      {*setup_.data.train, mine.train, setup_.data.test.get(), test_samples(client, mine.test)});
}

// Every client holds out its share of the test samples: client, client + n, client + 2n, …
std::span<const uint32_t> SimBackend::test_samples(uint64_t client,
                                                   std::vector<uint32_t>& samples) const {
  samples.clear();
  for (uint64_t i = client; i < setup_.data.test->size(); i += num_clients())
    samples.push_back(static_cast<uint32_t>(i));
  return samples;
}

void SimBackend::commit(uint32_t, const std::map<uint64_t, uint32_t>& versions) {
  for (const auto& [client, version] : versions) setup_.states.commit(client, version);
}

}  // namespace espalier::sim

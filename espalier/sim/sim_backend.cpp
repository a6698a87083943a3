#include "espalier/sim/sim_backend.h"

#include <algorithm>
#include <numeric>

#include "espalier/base/error.h"

namespace espalier::sim {

SimBackend::SimBackend(Setup setup)
    : setup_(std::move(setup)),
      workers_(setup_.num_threads),
      pool_(setup_.num_threads, [](size_t) { train::configure_thread(); }) {
  setup_.environment.decoded = &decoded_;
}

SimBackend::~SimBackend() = default;

// Replicas are made by the worker that uses them, so their memory lies near it.
train::Trainer& SimBackend::trainer(size_t worker, std::span<const int64_t> units) {
  Worker& mine = workers_[worker];
  auto& replicas = mine.replicas;
  auto found = std::find_if(replicas.begin(), replicas.end(), [&](const Replica& replica) {
    return std::ranges::equal(replica.units, units);
  });
  if (found == replicas.end()) {
    if (replicas.size() >= kMaxReplicas) {
      replicas.erase(
          std::min_element(replicas.begin(), replicas.end(),
                           [](const Replica& a, const Replica& b) { return a.used < b.used; }));
    }
    replicas.push_back({{units.begin(), units.end()},
                        train::make_trainer(setup_.model, train::spec_of(*setup_.data.train),
                                            setup_.train.precision, setup_.train.device, units),
                        0});
    found = std::prev(replicas.end());
  }
  found->used = ++mine.clock;
  return *found->trainer;
}

void SimBackend::run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) {
  // The longest work first, so that no worker starts a large client when the others are done. Sums
  // do not depend on the order.
  std::vector<uint64_t> order(clients.begin(), clients.end());
  std::stable_sort(order.begin(), order.end(),
                   [&](uint64_t a, uint64_t b) { return num_samples(a) > num_samples(b); });
  pool_.run(order.size(), [&](size_t index, size_t worker) {
    const uint64_t client = order[index];
    Worker& mine = workers_[worker];
    mine.loaded_model = 0;
    round::EncodedMessage update;
    try {
      setup_.partition.samples(client, mine.samples);
      update = round::run_client_task(
          traffic.task(client), setup_.environment,
          [&](std::span<const int64_t> units) -> train::Trainer& { return trainer(worker, units); },
          {*setup_.data.train, mine.samples, setup_.data.test.get(), test_samples(client, mine)});
    } catch (const StorageError&) {
      throw;  // ours, not the client's: the run cannot go on
    } catch (const Error& error) {
      traffic.failed(client, error.what());
      return;
    }
    traffic.delivered(client, update);
  });
  decoded_.clear();
  // A strategy that trains on the server needs the memory now; replicas are made again in a moment.
  if (setup_.environment.strategy.keeps_encoded()) {
    for (Worker& worker : workers_) worker.replicas.clear();
  }
}

// Every client holds out its share of the test samples: client, client + n, client + 2n, …
std::span<const uint32_t> SimBackend::test_samples(uint64_t client, Worker& worker) const {
  worker.test_samples.clear();
  for (uint64_t i = client; i < setup_.data.test->size(); i += num_clients())
    worker.test_samples.push_back(static_cast<uint32_t>(i));
  return worker.test_samples;
}

train::EvalSums SimBackend::evaluate(const ParameterSet& model) {
  const data::Dataset& test = *setup_.data.test;
  std::vector<uint32_t> all(test.size());
  std::iota(all.begin(), all.end(), uint32_t{0});
  const auto batch = static_cast<size_t>(setup_.eval_batch);
  const size_t num_batches = (all.size() + batch - 1) / batch;
  std::vector<train::EvalSums> sums(num_batches);
  const uint64_t evaluation = ++evaluations_;
  // A part of the model brings its own sizes; the whole model needs none.
  std::vector<int64_t> units;
  if (model.layout().size() != setup_.environment.limits.model->size())
    units = model.layout().group_sizes();
  pool_.run(num_batches, [&](size_t index, size_t worker) {
    train::Trainer& replica = trainer(worker, units);
    if (workers_[worker].loaded_model != evaluation) {
      replica.load(model);
      workers_[worker].loaded_model = evaluation;
    }
    const size_t begin = index * batch;
    sums[index] =
        replica.evaluate(test, std::span(all).subspan(begin, std::min(batch, all.size() - begin)));
  });
  train::EvalSums total;
  for (const train::EvalSums& part : sums) {
    total.loss += part.loss;
    total.correct += part.correct;
    total.count += part.count;
  }
  return total;
}

}  // namespace espalier::sim

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
train::Trainer& SimBackend::trainer(size_t worker) {
  auto& slot = workers_[worker].trainer;
  if (!slot) {
    slot = train::make_trainer(setup_.model, train::spec_of(*setup_.data.train),
                               setup_.train.precision, setup_.train.device);
  }
  return *slot;
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
      update = round::run_client_task(traffic.task(client), setup_.environment, trainer(worker),
                                      *setup_.data.train, mine.samples);
    } catch (const StorageError&) {
      throw;  // ours, not the client's: the run cannot go on
    } catch (const Error& error) {
      traffic.failed(client, error.what());
      return;
    }
    traffic.delivered(client, update);
  });
  decoded_.clear();
}

train::EvalSums SimBackend::evaluate(const ParameterSet& model) {
  const data::Dataset& test = *setup_.data.test;
  std::vector<uint32_t> all(test.size());
  std::iota(all.begin(), all.end(), uint32_t{0});
  const auto batch = static_cast<size_t>(setup_.eval_batch);
  const size_t num_batches = (all.size() + batch - 1) / batch;
  std::vector<train::EvalSums> sums(num_batches);
  const uint64_t evaluation = ++evaluations_;
  pool_.run(num_batches, [&](size_t index, size_t worker) {
    if (workers_[worker].loaded_model != evaluation) {
      trainer(worker).load(model);
      workers_[worker].loaded_model = evaluation;
    }
    const size_t begin = index * batch;
    sums[index] = trainer(worker).evaluate(
        test, std::span(all).subspan(begin, std::min(batch, all.size() - begin)));
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

#include "espalier/train/workers.h"

#include <algorithm>
#include <numeric>

#include "espalier/base/memory_use.h"
#include "espalier/train/evaluation.h"

namespace espalier::train {

Workers::Workers(size_t num_threads, TrainerFactory make, std::function<void()> configure)
    : make_(std::move(make)),
      workers_(num_threads),
      pool_(num_threads, [configure = std::move(configure)](size_t) { configure(); }) {}

void Workers::run(size_t count, const std::function<void(size_t, size_t)>& job) {
  pool_.run(count, job);
}

Trainer& Workers::replica(Worker& worker, std::span<const int64_t> units) {
  auto& replicas = worker.replicas;
  auto found = std::find_if(replicas.begin(), replicas.end(), [&](const Replica& replica) {
    return std::ranges::equal(replica.units, units);
  });
  if (found == replicas.end()) {
    if (replicas.size() >= kMaxReplicas) {
      replicas.erase(
          std::min_element(replicas.begin(), replicas.end(),
                           [](const Replica& a, const Replica& b) { return a.used < b.used; }));
    }
    const MemoryScope scope(MemoryUse::kWeights);
    replicas.push_back({{units.begin(), units.end()}, make_(units), 0});
    found = std::prev(replicas.end());
  }
  found->used = ++worker.clock;
  return *found->trainer;
}

Trainer& Workers::trainer(size_t worker, std::span<const int64_t> units) {
  workers_[worker].version = 0;
  return replica(workers_[worker], units);
}

Trainer& Workers::loaded(size_t worker, std::span<const int64_t> units, const ParameterSet& weights,
                         uint64_t version) {
  Worker& mine = workers_[worker];
  Trainer& trainer = replica(mine, units);
  if (mine.version != version || version == 0) trainer.load(weights);
  mine.version = version;
  return trainer;
}

void Workers::release() {
  for (Worker& worker : workers_) worker = {};
}

EvalSums WorkersEvaluator::batch(const ParameterSet& model, uint64_t version, size_t index,
                                 size_t worker) {
  // A part of the model brings its own sizes; the whole model needs none.
  std::vector<int64_t> units;
  if (model.layout().size() != whole_->size()) units = model.layout().group_sizes();
  std::vector<uint32_t> samples(std::min(batch_size_, test_.size() - index * batch_size_));
  std::iota(samples.begin(), samples.end(), static_cast<uint32_t>(index * batch_size_));
  return workers_.loaded(worker, units, model, version).evaluate(test_, samples);
}

EvalSums WorkersEvaluator::evaluate(const ParameterSet& model) {
  std::vector<EvalSums> sums(num_batches());
  const uint64_t version = workers_.new_version();
  workers_.run(sums.size(), [&](size_t index, size_t worker) {
    sums[index] = batch(model, version, index, worker);
  });
  EvalSums total;
  for (const EvalSums& part : sums) total += part;
  return total;
}

}  // namespace espalier::train

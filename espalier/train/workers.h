#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "espalier/base/thread_pool.h"
#include "espalier/train/evaluator.h"
#include "espalier/train/trainer.h"

namespace espalier::train {

// Makes the model with so many units per group; empty: the whole model.
using TrainerFactory = std::function<std::unique_ptr<Trainer>(std::span<const int64_t> units)>;

// The threads of one process that train and evaluate, and the replicas that they share out: every
// worker owns its own, of the sizes of sub-model that it used last, and reuses them. Memory: one
// replica per worker and size, at most kMaxReplicas sizes.
class Workers {
 public:
  static constexpr size_t kMaxReplicas = 8;
  // `configure` is called in every thread first; see models/process.h.
  Workers(size_t num_threads, TrainerFactory make, std::function<void()> configure);

  // Number of threads.
  size_t size() const { return workers_.size(); }
  // Calls job(index, worker) for 0 ≤ index < count, each once, by whichever worker is free; returns
  // when all are done. The first exception ends it and is thrown here.
  void run(size_t count, const std::function<void(size_t index, size_t worker)>& job);

  // For jobs: the worker's replica of this size, with whatever weights it was left with. Replicas
  // are made by the worker that uses them, so their memory lies near it.
  Trainer& trainer(size_t worker, std::span<const int64_t> units);
  // The replica with the weights loaded, unless it has them: `version` names weights and size
  // together, and 0 names nothing. A worker remembers the last one; trainer() makes it forget.
  Trainer& loaded(size_t worker, std::span<const int64_t> units, const ParameterSet& weights,
                  uint64_t version);

  // A name for weights that loaded() has not seen yet. Not while run() runs.
  uint64_t new_version() { return ++versions_; }

  // Frees all replicas; they are made again when they are needed. Not while run() runs.
  void release();

 private:
  struct Replica {
    std::vector<int64_t> units;  // as the factory was asked; empty: the whole model
    std::unique_ptr<Trainer> trainer;
    uint64_t used = 0;  // when, on the worker's own count
  };
  struct Worker {
    std::vector<Replica> replicas;
    uint64_t clock = 0;
    uint64_t version = 0;  // of the weights that loaded() left in the replica used last
  };
  // Made when the worker has none of this size.
  Trainer& replica(Worker& worker, std::span<const int64_t> units);

  TrainerFactory make_;          // called by many workers at a time
  std::vector<Worker> workers_;  // each touched by its own thread alone while run() runs
  uint64_t versions_ = 0;        // given out so far
  ThreadPool pool_;
};

// Evaluates on the samples of one data set, in batches that the workers share out. Workers and data
// outlive it.
class WorkersEvaluator final : public Evaluator {
 public:
  // `whole` is the layout of the whole model: others bring their own unit counts. batch_size ≥ 1.
  WorkersEvaluator(Workers& workers, const data::Dataset& test,
                   std::shared_ptr<const ParameterLayout> whole, size_t batch_size)
      : workers_(workers), test_(test), whole_(std::move(whole)), batch_size_(batch_size) {}
  EvalSums evaluate(const ParameterSet& model) override;

  // In parts, for evaluations that several processes share out. Batches are numbered from 0; their
  // sums are to be added in that order.
  const std::shared_ptr<const ParameterLayout>& layout() const { return whole_; }
  size_t num_batches() const { return (test_.size() + batch_size_ - 1) / batch_size_; }
  // The sums of one batch, in a thread of the workers; `version` as for Workers::loaded.
  EvalSums batch(const ParameterSet& model, uint64_t version, size_t index, size_t worker);

 private:
  Workers& workers_;
  const data::Dataset& test_;
  std::shared_ptr<const ParameterLayout> whole_;  // to tell parts by
  size_t batch_size_;
};

}  // namespace espalier::train

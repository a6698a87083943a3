#pragma once

#include <memory>
#include <semaphore>
#include <vector>

#include "espalier/base/thread_pool.h"
#include "espalier/models/model_options.h"
#include "espalier/train/hardware_options.h"
#include "espalier/train/trainer.h"

namespace espalier::strategy {

// A net that a strategy trains on the server, on several threads.
//
// Training splits every batch into `shards` parts of equal size, one replica each: every replica
// normalizes by its own part (batch norm, as in data-parallel training), the gradients' mean is
// applied to all, and the running statistics' mean is kept. The shards are part of the result; the
// number of threads is not: with fewer threads than shards, the shards take turns. So 1 and 2
// threads end in the same bytes. Prediction and evaluation split the samples into batches of
// kBatch, whatever the number of threads.
//
// Memory: a replica's buffers for max(num_threads, shards) replicas, of which `shards` hold
// activations of batch_size/shards samples and the others of kBatch.
class ServerNet {
 public:
  static constexpr size_t kBatch = 50;  // of predict() and evaluate()

  struct Setup {
    models::ModelOptions model;
    train::DataSpec data;
    train::HardwareOptions hardware;
    size_t num_threads = 1, shards = 1;
  };
  // Throws Error when the model is unknown or does not fit the data.
  ServerNet(Setup setup, Key key);

  const ParameterSet& weights() const { return weights_; }
  void set_weights(const ParameterSet& weights) { weights_ = weights; }
  uint64_t macs_per_sample() const { return macs_per_sample_; }
  // Frees the replicas' buffers until the next call that needs them, and returns what the process
  // has freed to the system: the machine may be training clients meanwhile.
  void release();

  // One pass over `samples` in an order drawn from `key`. When their number is no multiple of the
  // shards, some samples (drawn too) are seen twice. `optimizer` goes on from where it is.
  train::FitResult fit(const data::Dataset& dataset, std::span<const uint32_t> samples,
                       const train::StepOptions& options, const train::FitHooks& hooks,
                       train::OptimizerState& optimizer, Key key);
  // Logits of all samples in evaluation mode, samples × classes.
  void predict(const data::Dataset& dataset, std::span<float> logits);
  // Loss and correct predictions of the given samples, added up in their order.
  train::EvalSums evaluate(const data::Dataset& dataset, std::span<const uint32_t> samples);

 private:
  train::Trainer& replica(size_t index);
  // Calls work(replica, begin, end, index) for batches of `size` samples.
  template <class Work>
  void for_batches(size_t size, const Work& work);

  Setup setup_;
  ParameterSet weights_;
  uint64_t macs_per_sample_ = 0;
  std::vector<std::unique_ptr<train::Trainer>> replicas_;
  std::counting_semaphore<> permits_;  // threads that may compute at a time
  ThreadPool pool_;
};

}  // namespace espalier::strategy

#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "espalier/base/thread_pool.h"
#include "espalier/data/dataset.h"
#include "espalier/data/partition.h"
#include "espalier/round/backend.h"
#include "espalier/round/client_session.h"

namespace espalier::sim {

// Many clients on the cores of one machine: every worker thread owns one model replica and runs one
// client at a time, with one thread each. Results do not depend on the number of workers or on
// which worker runs which client.
//
// A declared client costs nothing until it is selected; memory is that of the data, of the server,
// and of one replica per worker (and size of sub-model).
class SimBackend : public round::Backend {
 public:
  struct Setup {
    data::DataSource data;
    const data::Partition& partition;
    train::ModelOptions model;
    train::TrainOptions train;
    size_t num_threads = 1;
    int64_t eval_batch = 100;
    round::ClientEnvironment environment;  // `decoded` is set by the backend
  };
  explicit SimBackend(Setup setup);
  ~SimBackend() override;

  uint64_t num_clients() const override { return setup_.partition.num_clients(); }
  uint64_t num_samples(uint64_t client) const override {
    return setup_.partition.num_samples(client);
  }
  void run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) override;
  train::EvalSums evaluate(const ParameterSet& model) override;

 private:
  struct Replica {
    std::vector<int64_t> units;  // of the part of the model; empty: the whole
    std::unique_ptr<train::Trainer> trainer;
    uint64_t used = 0;  // when, on the worker's own count
  };
  struct Worker {
    std::vector<Replica> replicas;
    uint64_t clock = 0;
    std::vector<uint32_t> samples, test_samples;  // of the current client; reused
    uint64_t loaded_model = 0;  // number of the evaluation whose model is loaded; 0: another one
  };
  // Replicas of the sizes used last, at most kMaxReplicas per worker.
  static constexpr size_t kMaxReplicas = 8;
  std::span<const uint32_t> test_samples(uint64_t client, Worker& worker) const;
  train::Trainer& trainer(size_t worker, std::span<const int64_t> units);

  Setup setup_;
  round::DecodedBodies decoded_;
  std::vector<Worker> workers_;
  uint64_t evaluations_ = 0;
  ThreadPool pool_;
};

}  // namespace espalier::sim

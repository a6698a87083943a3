#pragma once

#include <functional>
#include <memory>
#include <string>

#include "espalier/client/client_state.h"
#include "espalier/mpi/communicator.h"
#include "espalier/round/partial_sums.h"
#include "espalier/train/trainer.h"
#include "espalier/wire/message.h"

// One run on many processes: rank 0 has the round loop and hands out clients one at a time, the
// longest first, to its own threads and to the other ranks. Messages are those of a simulation, so
// the run ends in its bytes with any number of ranks and threads.
namespace espalier::mpi {

// The clients of this process: what trains a task here.
class LocalClients {
 public:
  virtual ~LocalClients() = default;
  virtual size_t num_threads() const = 0;
  // Calls `work(worker)` once in each of the threads; returns when all have returned. The first
  // exception is thrown here.
  virtual void in_threads(const std::function<void(size_t worker)>& work) = 0;
  // Runs a client's task, bytes to bytes. Throws Error when the client fails, StorageError when we
  // do. Thread `worker`.
  virtual wire::EncodedMessage answer(uint64_t client, const wire::EncodedMessage& task,
                                      size_t worker) = 0;
  // Adds an update to this rank's part of the sums; see PartialSums::add().
  virtual wire::Update add(uint64_t client, const wire::EncodedMessage& update,
                           round::PartialSums& sums) = 0;
  // The exchange is over: what its tasks shared may go.
  virtual void forget() = 0;

  // Evaluation on the test samples, batch by batch (train::WorkersEvaluator). The model's layout
  // with so many units per group; empty: the whole model's.
  virtual std::shared_ptr<const ParameterLayout> layout(std::span<const int64_t> units) const = 0;
  virtual size_t num_batches() const = 0;
  virtual uint64_t new_version() = 0;
  // Thread `worker`.
  virtual train::EvalSums evaluate(const ParameterSet& model, uint64_t version, size_t batch,
                                   size_t worker) = 0;
};

// Rank 0's backend. What clients of several ranks receive is broadcast once. Where sums are plain
// and there are several clients for each rank, every rank adds its clients' updates, and the parts
// are reduced as integers; else updates come to rank 0 one by one. Either way the bytes are those
// of one process.
//
// What clients remember stays with `states`, whichever rank trains them: it goes
// out when a task asks for it and comes back with the update. `inner` says who the clients are and
// keeps checkpoints; all outlive this.
class RankBackend final : public round::Backend {
 public:
  RankBackend(Communicator& communicator, LocalClients& local, client::ClientStateStore& states,
              round::Backend& inner);
  // Tells the other ranks that the run is over and waits until they have left. When they do not,
  // after an error, it is printed and all ranks are ended.
  ~RankBackend() override;

  uint64_t num_clients() const override { return inner_.num_clients(); }
  uint64_t num_samples(uint64_t client) const override { return inner_.num_samples(client); }
  std::vector<uint64_t> select(Key key, std::span<const uint64_t> eligible,
                               uint64_t count) override {
    return inner_.select(key, eligible, count);
  }
  // Threads of all ranks, once they are ready: waits for them.
  size_t num_threads();
  // Throws Error when a rank cannot go on.
  void run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) override;
  void make_durable() override { inner_.make_durable(); }
  void commit(uint32_t round, const std::map<uint64_t, uint32_t>& versions) override {
    inner_.commit(round, versions);
  }
  void release_memory() override { inner_.release_memory(); }

  // Batches are handed out as clients are; their sums are added in the batches' order, so the
  // figures are those of one process.
  train::EvalSums evaluate(const ParameterSet& model);

 private:
  struct Exchange;
  enum class Talk : uint8_t { kIdle, kBusy, kDone };
  void work_and_talk(const std::function<void(size_t worker)>& work,
                     const std::function<void()>& stop,
                     const std::function<Talk(bool worked)>& talk);
  [[noreturn]] void end_by(std::exception_ptr error);
  void await_ranks();
  void say_all(const Bytes& message);
  void hand_out(Exchange& exchange, int rank, uint64_t client);
  void handle(Exchange& exchange, const Message& message);
  void reduce(Exchange& exchange);

  Communicator& communicator_;
  LocalClients& local_;
  client::ClientStateStore& states_;
  round::Backend& inner_;
  std::vector<size_t> threads_;  // by rank
  bool ready_ = false;           // whether all ranks have said so
  uint64_t evaluations_ = 0;     // so far
  std::string failure_;          // what the run ends with, if anything
};

// What rank 0 says before the first task: how to make the clients. Empty: over before it began.
void send_setup(Communicator& communicator, const std::string& text);
std::string receive_setup(Communicator& communicator);

// What the first rank of each machine tells the others there, once, after it was set up: where the
// data are that it has loaded. The others wait for it.
void send_data(Communicator& communicator, const std::string& text);
std::string receive_data(Communicator& communicator);

// Another rank's last word, where no work() has said it.
void leave(Communicator& communicator);

// Another rank: does tasks until rank 0 says that the run is over. `make` makes this rank's
// clients, who remember in the given store. When it throws, or anything else goes wrong here but a
// client's task, rank 0 is told and ends the run with the reason.
void work(
    Communicator& communicator,
    const std::function<std::unique_ptr<LocalClients>(client::ClientStateStore& states)>& make);

}  // namespace espalier::mpi

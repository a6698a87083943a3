#pragma once

#include <functional>
#include <memory>
#include <span>

#include "espalier/client/algorithm.h"
#include "espalier/client/client_state.h"
#include "espalier/client/update_stages.h"
#include "espalier/codec/codec.h"
#include "espalier/data/dataset.h"
#include "espalier/train/trainer.h"
#include "espalier/wire/message.h"

// One task at a client, from bytes to bytes, whatever carried it there: decode → restore what the
// client remembers → run the algorithm that the task names → update stages → encode → remember.
namespace espalier::client {

// The largest payload of its own layout that a client takes: FedGKT's answers for 65,536 samples of
// 1,000 classes, or four models.
int64_t max_task_values(const ParameterLayout& model);

// The replica that trains a task: units as in Task::units. It stays the caller's and is used until
// the task is done.
using TrainerSource = std::function<train::Trainer&(std::span<const int64_t> units)>;

// Everything a client works with, whatever carried the task to it. Outlives its sessions.
struct ClientEnvironment {
  AlgorithmTable algorithms;  // those that this program has
  const codec::Codec& downlink;
  const codec::Codec& uplink;
  wire::WireLimits limits;
  ClientStateStore* states = nullptr;      // null when clients remember nothing
  wire::DecodedBodies* decoded = nullptr;  // shared by the clients of one process; may be null
  UpdateStages stages = {};
};

// What a client has: its training samples and, for algorithms whose models only clients can
// evaluate, test samples.
struct ClientData {
  const data::Dataset& dataset;
  std::span<const uint32_t> samples;
  const data::Dataset* test = nullptr;
  std::span<const uint32_t> test_samples = {};
};

// One task. The steps are called in order, each once, by one thread; each throws Error when the
// task or what was made of it is no good: then the client has failed and has not moved on.
class Session {
 public:
  // Decodes the message and restores the state that it builds on.
  Session(const wire::EncodedMessage& message, const ClientEnvironment& environment);

  const wire::Task& task() const { return task_; }
  // Runs the algorithm that the task names.
  void run(const TrainerSource& trainer, const ClientData& data);
  // What goes back to the server. The trainer that ran has not been used since.
  wire::EncodedMessage encode();
  // Keeps what the next task builds on. Last, so that a client that failed before has not moved on.
  void remember();

 private:
  void restore(const wire::Task& head);
  std::shared_ptr<const ParameterSet> decode_delta(const wire::Task& head,
                                                   std::span<const uint8_t> body);
  std::span<const uint8_t> held_mask(const wire::Task& head, uint32_t round);
  void check_model() const;
  // Without a next round nothing is made up for, and nothing that was lost before belongs to this.
  bool uses_stages() const { return task_.keeps_state && !environment_.stages.empty(); }

  const ClientEnvironment& environment_;
  Key key_{0};
  std::shared_ptr<const ClientState> previous_;
  std::shared_ptr<const ParameterSet> held_model_;  // of a delta downlink
  wire::Task task_;
  wire::WireLimits limits_;  // of the update
  wire::Update update_;
  ClientState next_;
};

// All of it.
wire::EncodedMessage run_client_task(const wire::EncodedMessage& message,
                                     const ClientEnvironment& environment,
                                     const TrainerSource& trainer, const ClientData& data);

}  // namespace espalier::client

#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/base/random.h"
#include "espalier/client/client_state.h"
#include "espalier/data/dataset.h"
#include "espalier/train/trainer.h"
#include "espalier/wire/task.h"

// The client's half of a federated algorithm: what is done with a task between decoding it and
// encoding the update. It knows nothing of servers, so a device needs only this. Which half a task
// wants, and with which options, the task says itself (Task::algorithm, Task::options).
namespace espalier::client {

// What an algorithm works with while it runs one task. Owned by the worker that runs it.
struct ClientContext {
  train::Trainer& trainer;  // of the task's architecture; its weights are whatever was there before
  const data::Dataset& dataset;
  std::span<const uint32_t> samples;  // of `dataset`, to train on
  Key key;                            // of this client in this round
  const ClientState* previous;  // state as of Task::state_version; null when the client has none
  ClientState next;             // what the client will remember; empty keeps nothing
  // Samples that the client holds out, for algorithms whose models only clients can evaluate; null
  // when it holds out none.
  const data::Dataset* test = nullptr;
  std::span<const uint32_t> test_samples = {};
  // Whether a payload may come as what it is the difference of (wire::Payload::before): whoever
  // runs the algorithm encodes it before the trainer is used again.
  bool takes_differences = false;
};

class ClientAlgorithm {
 public:
  virtual ~ClientAlgorithm() = default;
  ClientAlgorithm() = default;
  ClientAlgorithm(const ClientAlgorithm&) = delete;
  ClientAlgorithm& operator=(const ClientAlgorithm&) = delete;

  // Runs the task. What is remembered goes to context.next; when Error is thrown, nothing is kept
  // and the client has failed. Any thread, many at a time.
  virtual wire::Update run(ClientContext& context, const wire::Task& task) const = 0;
};

// A table has one row per algorithm; a program passes it to its sessions. `create` reads the
// options of a task: Error for unknown keys (`other_keys` belong to somebody else) and values out
// of range.
struct AlgorithmRow {
  std::string name;
  std::function<std::unique_ptr<ClientAlgorithm>(const ConfigSection& options,
                                                 const std::vector<std::string>& other_keys)>
      create;
  std::function<std::vector<FieldHelp>()> describe;
};
using AlgorithmTable = std::span<const AlgorithmRow>;

// Throws Error that names the known ones.
const AlgorithmRow& find_algorithm(AlgorithmTable table, const std::string& name);

// The row of a class with a nested `Options` struct and a constructor that takes it.
template <class T>
AlgorithmRow algorithm_row(std::string name) {
  return {std::move(name),
          [](const ConfigSection& section,
             const std::vector<std::string>& other_keys) -> std::unique_ptr<ClientAlgorithm> {
            typename T::Options options;
            read_options(section, other_keys, options);
            return std::make_unique<T>(options);
          },
          [] { return describe_options<typename T::Options>(); }};
}

// For algorithms that have none.
struct NoOptions {
  template <class Self, class Visitor>
  static void fields(Self&, Visitor&&) {}
};

}  // namespace espalier::client

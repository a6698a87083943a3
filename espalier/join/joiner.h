#pragma once

#include <csignal>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "espalier/client/session.h"
#include "espalier/client/state_store.h"
#include "espalier/data/dataset.h"
#include "espalier/join/client_folder.h"
#include "espalier/join/eligibility.h"
#include "espalier/models/model_options.h"
#include "espalier/rpc/connection.h"
#include "espalier/train/foreign_trainer.h"
#include "espalier/train/hardware_options.h"
#include "espalier/train/trainer.h"

namespace espalier::join {

struct JoinOptions {
  rpc::ConnectionOptions connection;
  std::filesystem::path folder;
  std::filesystem::path module;  // the TorchScript module of a run that has one
  std::string device;            // what the client calls what it runs on
  std::string instructions;      // with which its nets are computed: nets round by them
  uint32_t retry_max_ms = 300'000;
  uint64_t memory_bytes = 0;       // that training may take; tasks beyond it fail. 0: no limit
  EligibilityOptions eligibility;  // its folder is this client's
  // A program of one's own that trains in the engine's place, on samples that only it knows: their
  // numbers. Called from the thread that runs.
  std::optional<train::ForeignProgram> program;
  size_t num_samples = 0, num_test_samples = 0;
  // Lines for a person; called from the thread that runs, as the others are.
  std::function<void(const std::string& line)> say = [](const std::string&) {};
  std::function<void(uint32_t round)> on_task = [](uint32_t) {};
  // The server has been told that a task failed.
  std::function<void(const std::string& why)> on_failed = [](const std::string&) {};
  // What samples look like to the run's model.
  std::function<void(const rpc::DataSpec& data)> on_joined = [](const rpc::DataSpec&) {};
};

// One client of a network: asks the server for tasks, does them with its own data and sends what
// comes out, until the run is over. Broken connections, restarts of the server and of this process
// change nothing in what the run ends with: tasks and updates go on at the byte at which they
// were cut, what the client remembers is on disk before the server hears of it, and a task that is
// asked again gets the same answer.
class Joiner {
 public:
  // Training and test samples of this client; empty where options.program trains. Throws Error when
  // another process uses the folder.
  Joiner(JoinOptions options, data::Dataset train, data::Dataset test);
  ~Joiner();

  enum class End : uint8_t { kCompleted, kEndedEarly, kStopped };
  // Until the run is over, or until `stop` becomes nonzero. Throws Error for what repeating does
  // not mend: no good certificate, another run or version, data that do not fit.
  End run(const volatile std::sig_atomic_t* stop);

  uint64_t rounds_done() const { return rounds_done_; }

 private:
  struct Federation;  // what the server has said at check-in
  void check_in();
  void find_module(Federation& federation, const std::string& sha256) const;
  End serve_tasks(const volatile std::sig_atomic_t* stop);
  void do_task(const rpc::TaskNotice& task);
  void fail_task(const rpc::TaskNotice& task, const std::string& why);
  std::optional<wire::EncodedMessage> fetch(const rpc::TaskNotice& task);
  bool work(const rpc::TaskNotice& task, wire::EncodedMessage message);
  void push(const rpc::TaskNotice& task, const StoredStream& update);
  void wait_until_eligible(uint64_t bytes);
  void pause(uint32_t milliseconds) const;
  // The server has no need of this client for now; who comes back late keeps no connection.
  void rest(const rpc::RetryWindow& window);
  uint32_t drawn(const rpc::RetryWindow& window) const;
  train::DataSpec model_data() const;
  train::Trainer& trainer(std::span<const int64_t> units);

  JoinOptions options_;
  ClientFolder folder_;
  data::Dataset train_, test_;
  std::vector<uint32_t> samples_, test_samples_;  // all of them
  client::StateStore states_;
  Eligibility eligibility_;
  rpc::Connection connection_;
  std::unique_ptr<Federation> federation_;
  std::map<std::vector<int64_t>, std::unique_ptr<train::Trainer>> trainers_;
  const volatile std::sig_atomic_t* stop_ = nullptr;
  uint32_t longest_ms_ = 1000;  // of the next pause; doubles while nobody answers
  uint64_t rounds_done_ = 0;
};

}  // namespace espalier::join

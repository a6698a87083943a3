#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/codec/codec.h"
#include "espalier/codec/delta.h"
#include "espalier/params/parameter_set.h"
#include "espalier/round/backend.h"
#include "espalier/round/checkpoint.h"
#include "espalier/round/devices.h"
#include "espalier/round/exchange.h"
#include "espalier/round/failure_history.h"
#include "espalier/round/ledger.h"
#include "espalier/round/refusals.h"
#include "espalier/round/run_options.h"
#include "espalier/round/submodel_plan.h"
#include "espalier/strategy/strategy.h"
#include "espalier/train/evaluator.h"
#include "espalier/train/train_options.h"

namespace espalier::round {

// The one round loop: select → configure → send → train → return → check → accumulate → finish. Who
// carries the tasks is the backend's business; everything else is here, for simulation and devices
// alike. What clients remember is theirs: the loop knows its versions alone.
//
// Server memory: the global model, one encoded copy of it, and the round's sums (8 bytes per
// value), whatever the number of clients. Used from one thread; its exchanges are called from the
// backend's.
class RoundLoop {
 public:
  // What a run is made of; references outlive the loop.
  struct Setup {
    RunOptions run;
    SelectionOptions selection;
    train::TrainOptions train;  // the step travels, the schedule stays here
    SubmodelOptions submodel = {};
    std::vector<DeviceOptions> devices = {};
    strategy::Strategy& strategy;  // the server half
    const codec::Codec& downlink;
    const codec::Codec& uplink;
    Backend& backend;              // carries the tasks
    train::Evaluator& evaluator;   // of the global model, and of parts of it
    strategy::ServerSetup server;  // for the strategy
  };

  // Starts the strategy. Throws Error when parts of the configuration do not go together or it asks
  // for more clients than there are; the default number of clients per round gives way with a note.
  RoundLoop(const Setup& setup, ParameterSet initial);

  // Runs the next round. A client's failure is recorded, not thrown. RoundFailed when all clients
  // of the round failed, half of them for the same reason round after round, or too few for the
  // backend, with the state as before the round: it may be run again; another Error when the model
  // is no longer finite or storage failed: the run cannot go on from here.
  RoundRecord run_round();

  // What a person should know of how the options were understood.
  const std::vector<std::string>& notes() const { return notes_; }
  // Also after a resume.
  uint32_t rounds_completed() const { return round_; }
  bool finished() const { return round_ >= static_cast<uint32_t>(setup_.run.rounds); }
  // The global weights after the last completed round; the initial ones before the first.
  const ParameterSet& global() const { return *global_; }
  const SubmodelPlan& submodels() const { return plan_; }
  const DeviceTable& devices() const { return devices_; }
  // The round in which each client last wrote its state.
  const std::map<uint64_t, uint32_t>& state_versions() const { return state_versions_; }
  // Sums over all rounds so far, those before a resume included.
  const Ledger& ledger() const { return ledger_; }

  // Between rounds: the set `set` (of the model's layout) of what each client that has taken part
  // remembers (strategy::OwnModel::client_set). A client that does not answer is missing, with a
  // line in `notes`. Not in the ledger.
  std::map<uint64_t, ParameterSet> recall(const std::string& set, std::vector<std::string>& notes);

  // The state after the last completed round, and back. checkpoint() makes what clients of this
  // process have kept durable first (StorageError when that fails); `configuration` is a
  // fingerprint that the caller checks on the way back. restore() makes the loop go on after
  // checkpoint.round and throws Error when the strategy's part is not its own.
  Checkpoint checkpoint(uint64_t configuration) const;
  void restore(Checkpoint checkpoint);
  // To be called when the checkpoint of the last round is safely written: older client states may
  // go.
  void checkpoint_written();

  // Called from any thread when a client has delivered or failed: (done, total).
  std::function<void(uint64_t, uint64_t)> on_client;

 private:
  // What a round falls back to that fails when something has changed already: in a preparation's
  // round, and when the server stops while clients evaluate what the round has trained.
  struct Before {
    ParameterSet global;
    Bytes strategy;
    std::map<std::string, ParameterSet> estimates;
    std::map<uint64_t, uint32_t> state_versions, uncommitted;
  };
  bool clients_evaluate(const strategy::RoundInfo& info) const;
  // So many of those that may be selected, at most all, in the order in which they were drawn.
  std::vector<uint64_t> draw_clients(Key key, uint64_t count) const;
  uint64_t num_eligible() const;
  // No client's update weighs more; at least 1. Sets the scale of the exact sums.
  double max_weight(std::span<const uint64_t> clients) const;
  // How sums become means, the aggregation first.
  strategy::SumRules sum_rules(wire::TaskKind kind) const;
  // Of the round's next exchange.
  Exchange::Setup exchange_setup(Key key, std::shared_ptr<const ParameterLayout> layout);
  void explore(const strategy::RoundInfo& info, uint64_t count, RoundRecord& record);
  RoundRecord train_round(const strategy::RoundInfo& info, const Stopwatch& wall);
  RoundRecord train_clients(const strategy::RoundInfo& info, std::span<const uint64_t> clients,
                            RoundRecord record, const Stopwatch& wall);
  bool evaluates(uint32_t round) const;
  bool clients_have_state() const;
  void finish(const strategy::RoundInfo& info, const strategy::RoundSums& sums);
  // Who computes the statistics of a width; nobody when no client that is there can.
  std::vector<uint64_t> choose_calibrating(const strategy::RoundInfo& info,
                                           std::span<const uint64_t> answered, double width) const;
  // Writes them into `model`; a note when there are none.
  void collect_statistics(const strategy::RoundInfo& info, std::span<const uint64_t> answered,
                          double width, ParameterSet& model, RoundRecord& record);
  void evaluate(const strategy::RoundInfo& info, std::span<const uint64_t> clients,
                RoundRecord& record);
  // By the clients, on what they hold out.
  train::EvalSums ask_clients(const strategy::RoundInfo& info, std::span<const uint64_t> answered,
                              std::shared_ptr<const ParameterSet> model, RoundRecord& record);
  void set_downlink_state(std::optional<ParameterSet> state);  // as of round_

  Setup setup_;
  std::vector<std::string> notes_;
  strategy::Traits traits_;
  strategy::Capabilities can_;  // the strategy's
  mutable SubmodelPlan plan_;   // remembers the sub-models of the round
  DeviceTable devices_;
  std::vector<uint64_t> eligible_;  // clients that may be selected; empty: all
  uint32_t round_ = 0;
  uint32_t exchanges_ = 0;  // of the round in progress
  std::shared_ptr<ParameterSet> global_;
  Ledger ledger_;
  FailureHistory failures_;
  Feedback feedback_;
  std::map<std::string, ParameterSet> estimates_;     // EF21
  std::unique_ptr<codec::DeltaSender> delta_sender_;  // delta downlink
  std::map<uint64_t, uint32_t> state_versions_;
  std::map<uint64_t, uint32_t> uncommitted_;  // those that the last written checkpoint has not
};

}  // namespace espalier::round

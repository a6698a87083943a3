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
#include "espalier/round/client_session.h"
#include "espalier/round/client_state.h"
#include "espalier/round/devices.h"
#include "espalier/round/ledger.h"
#include "espalier/round/round_traffic.h"
#include "espalier/round/run_options.h"
#include "espalier/round/submodel_plan.h"
#include "espalier/strategy/strategy.h"

namespace espalier::round {

// All clients of a round failed.
class RoundFailed : public Error {
 public:
  using Error::Error;
};

// The one round loop: select → configure → send → train → return → check → accumulate → finish. Who
// carries the tasks is the backend's business; everything else is here, for simulation and devices
// alike.
//
// Server memory: the global model, one encoded copy of it, and the round's sums (8 bytes per
// value), whatever the number of clients. Used from one thread; its traffic is called from the
// backend's.
class RoundLoop {
 public:
  struct Setup {
    RunOptions run;
    SelectionOptions selection;
    train::TrainOptions train;
    strategy::Strategy& strategy;
    const codec::Codec& downlink;
    const codec::Codec& uplink;
    Backend& backend;
    ClientStateStore* states = nullptr;  // needed when clients have state: the strategy's, error
                                         // feedback's, delta downlink's
    SubmodelOptions submodel = {};
    std::vector<DeviceOptions> devices = {};
    // What a strategy that trains on the server works with: data, threads and scratch are given,
    // the rest follows from the above.
    strategy::ServerSetup server = {};
  };

  // Throws Error when the configuration asks for more clients than there are.
  RoundLoop(const Setup& setup, ParameterSet initial);

  // Runs the next round. A client's failure is recorded, not thrown. RoundFailed when all clients
  // of the round failed, with the state as before the round; another Error when the model is no
  // longer finite or storage failed: the run cannot go on from here.
  RoundRecord run_round();

  uint32_t rounds_completed() const { return round_; }
  bool finished() const { return round_ >= static_cast<uint32_t>(setup_.run.rounds); }
  const ParameterSet& global() const { return *global_; }
  const SubmodelPlan& submodels() const { return plan_; }
  const DeviceTable& devices() const { return devices_; }
  // The round in which each client last wrote its state.
  const std::map<uint64_t, uint32_t>& state_versions() const { return state_versions_; }
  const Ledger& ledger() const { return ledger_; }

  // The state after the last completed round, and back. restore() makes the loop go on after
  // checkpoint.round.
  Checkpoint checkpoint(uint64_t configuration) const;
  void restore(Checkpoint checkpoint);
  // To be called when the checkpoint of the last round is safely written: older client states may
  // go.
  void checkpoint_written();

  // Called from any thread when a client has delivered or failed: (done, total).
  std::function<void(uint64_t, uint64_t)> on_client;

 private:
  // What a round that fails falls back to, when the strategy prepares before it.
  struct Before {
    ParameterSet global;
    Bytes strategy;
  };
  std::vector<uint64_t> draw_clients(Key key, uint64_t count) const;
  double max_weight(std::span<const uint64_t> clients) const;
  ServerTraffic::Setup traffic_setup(const strategy::RoundInfo& info) const;
  void explore(const strategy::RoundInfo& info, uint64_t count, RoundRecord& record);
  RoundRecord train_round(const strategy::RoundInfo& info, const Stopwatch& wall);
  bool evaluates(uint32_t round) const;
  bool clients_have_state() const;
  void check_submodels() const;
  void finish(const strategy::RoundInfo& info, const strategy::RoundSums& sums);
  void collect_statistics(const strategy::RoundInfo& info, std::span<const uint64_t> clients,
                          double width, ParameterSet& model, RoundRecord& record);
  void evaluate(const strategy::RoundInfo& info, std::span<const uint64_t> clients,
                RoundRecord& record);
  void set_downlink_state(std::optional<ParameterSet> state);  // as of round_

  Setup setup_;
  mutable SubmodelPlan plan_;  // remembers the sub-models of the round
  DeviceTable devices_;
  std::vector<uint64_t> eligible_;  // clients that may be selected; empty: all
  uint32_t round_ = 0;
  std::shared_ptr<ParameterSet> global_;
  Ledger ledger_;
  Feedback feedback_;
  std::map<std::string, ParameterSet> estimates_;     // EF21
  std::unique_ptr<codec::DeltaSender> delta_sender_;  // delta downlink
  std::map<uint64_t, uint32_t> state_versions_;
  std::vector<uint64_t>
      uncommitted_;  // clients whose state changed since the last written checkpoint
};

}  // namespace espalier::round

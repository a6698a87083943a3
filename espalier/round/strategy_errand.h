#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "espalier/codec/delta.h"
#include "espalier/round/exchange.h"
#include "espalier/round/submodel_plan.h"
#include "espalier/strategy/strategy.h"

namespace espalier::round {

// A round's training, or the exploration before it (RoundInfo::kind): what a strategy configures
// goes out, cut to the client's part of the model, and what comes back is checked and added to the
// round's sums. Memory: the sums, and one copy of each part of the model that several clients
// share.
class StrategyErrand final : public Errand {
 public:
  // All of it is the round loop's and outlives this.
  struct Setup {
    const strategy::RoundInfo& info;
    strategy::Strategy& strategy;  // configures, checks and accumulates
    const Backend& backend;        // says how many samples a client has stated
    SubmodelPlan& plan;            // cuts a client's part of the model
    const DeviceTable& devices;
    std::shared_ptr<const ParameterSet> global;          // the weights that tasks carry
    const std::map<uint64_t, uint32_t>& state_versions;  // client → round of its state
    bool keeps_state = false;                            // whether clients will remember this task
    const codec::DeltaSender* delta_sender = nullptr;    // null: no delta downlink
  };
  // The sums take at most `max_clients` updates of at most `max_weight`; `rules` make their means.
  StrategyErrand(const Setup& setup, uint64_t max_clients, double max_weight,
                 strategy::SumRules rules);

  // kTrain or kExplore.
  wire::TaskKind kind() const override { return setup_.info.kind; }
  Outgoing prepare(uint64_t client) override;
  wire::WireLimits limits(uint64_t client, const Sent& sent) const override;
  void accept(uint64_t client, const Sent& sent, wire::Update& update) override;
  std::optional<Summing> summing() const override;
  void count(uint64_t client, const wire::Update& update) override { sums_.count(client, update); }
  ExactAccumulator& sum(const std::string& payload) override {
    return sums_.accumulator(payload, setup_.global->layout());
  }

  // What has been accepted so far; to be read when nobody is awaited any more.
  const strategy::RoundSums& sums() const { return sums_; }

 private:
  std::shared_ptr<const ParameterSet> extracted(
      const std::shared_ptr<const submodel::Submodel>& submodel, bool own,
      const std::shared_ptr<const ParameterSet>& values);

  Setup setup_;
  strategy::EncodedUpdates* encoded_;  // null: updates are decoded
  strategy::RoundSums sums_;
  // Strategies configure one task at a time; parts are cut once for all who get the same.
  std::mutex configure_mutex_, extract_mutex_;
  std::map<std::pair<const void*, const void*>, std::shared_ptr<const ParameterSet>> extracted_;
  std::map<const uint8_t*, std::shared_ptr<const Bytes>> deltas_;  // of a delta downlink: two
};

}  // namespace espalier::round

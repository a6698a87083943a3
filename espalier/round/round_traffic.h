#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "espalier/codec/codec.h"
#include "espalier/codec/delta.h"
#include "espalier/round/backend.h"
#include "espalier/round/client_session.h"
#include "espalier/round/devices.h"
#include "espalier/round/submodel_plan.h"
#include "espalier/round/wire.h"
#include "espalier/strategy/strategy.h"

namespace espalier::round {

// The server's side of the messages of one round's training, or of the exploration before it
// (RoundInfo::kind): configure → extract → encode on the way out, decode → check → accumulate on
// the way in. A client's failure is recorded and ends that client alone.
class ServerTraffic : public RoundTraffic {
 public:
  // All of it is the round loop's and outlives this.
  struct Setup {
    const strategy::RoundInfo& info;
    strategy::Strategy& strategy;
    const codec::Codec& downlink;
    const codec::Codec& uplink;
    Backend& backend;
    SubmodelPlan& plan;
    const DeviceTable& devices;
    std::shared_ptr<const ParameterSet> global;
    const std::map<uint64_t, uint32_t>& state_versions;
    Feedback feedback = Feedback::kNone;
    const std::map<std::string, ParameterSet>* estimates = nullptr;  // EF21's
    const codec::DeltaSender* delta_sender = nullptr;                // null: no delta downlink
    const std::function<void(uint64_t, uint64_t)>& on_client;        // may be empty
  };
  ServerTraffic(const Setup& setup, uint64_t num_clients, double max_weight);

  EncodedMessage task(uint64_t client) override;
  void delivered(uint64_t client, const EncodedMessage& message) override;
  void failed(uint64_t client, const std::string& reason) override;

  uint64_t bytes_down() const { return bytes_down_; }
  uint64_t bytes_up() const { return bytes_up_; }
  const strategy::RoundSums& sums() const { return sums_; }
  const std::map<uint64_t, std::string>& failures() const { return failures_; }
  const std::vector<uint64_t>& answered() const { return answered_; }
  // Of the client that a round of real devices would have waited for longest.
  const DeviceTimes& slowest() const { return slowest_; }

 private:
  struct Sent {
    std::shared_ptr<const submodel::Submodel> submodel;  // null: the whole model
    std::shared_ptr<const strategy::TravellingMask> mask;
    uint64_t bytes = 0;
  };

  bool exploring() const { return setup_.info.kind == strategy::TaskKind::kExplore; }
  Sent sent_to(uint64_t client);
  std::shared_ptr<const ParameterSet> extracted(
      const std::shared_ptr<const submodel::Submodel>& submodel, bool own,
      const std::shared_ptr<const ParameterSet>& values);
  void check(uint64_t client, const strategy::Update& update, const ParameterLayout& layout) const;
  void one_done();

  Setup setup_;
  uint64_t num_clients_;
  strategy::RoundSums sums_;
  WireLimits limits_;
  EncodedBodies encoded_;
  std::mutex configure_mutex_, extract_mutex_, mutex_;
  std::map<std::pair<const void*, const void*>, std::shared_ptr<const ParameterSet>> extracted_;
  std::map<uint64_t, Sent> sent_;
  DeviceTimes slowest_;
  std::atomic<uint64_t> bytes_down_ = 0, bytes_up_ = 0, done_ = 0;
  std::map<uint64_t, std::string> failures_;
  std::vector<uint64_t> answered_;
};

}  // namespace espalier::round

#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "espalier/codec/codec.h"
#include "espalier/round/backend.h"
#include "espalier/round/devices.h"
#include "espalier/round/wire.h"
#include "espalier/strategy/strategy.h"

namespace espalier::round {

// The server's side of the exchange in which clients compute the normalization statistics of one
// width of the model over their samples (HeteroFL's static batch norm). A client that answers
// nonsense is left out; bytes, products and the slowest client's simulated time are counted.
class StatisticsTraffic : public RoundTraffic {
 public:
  struct Setup {
    const strategy::RoundInfo& info;
    const codec::Codec& downlink;
    const codec::Codec& uplink;
    Backend& backend;
    const DeviceTable& devices;
    std::shared_ptr<const ParameterSet> model;  // of that width
    std::vector<int64_t> units;                 // its units; empty: the whole model
  };
  StatisticsTraffic(Setup setup, size_t num_clients, double max_weight);

  EncodedMessage task(uint64_t client) override;
  void delivered(uint64_t client, const EncodedMessage& message) override;
  void failed(uint64_t client, const std::string& reason) override;

  // Writes the clients' mean statistics into a model of that width; without any they stay.
  void finish(ParameterSet& model) const;
  double macs() const { return sums_.sum(strategy::kMacs); }

  std::atomic<uint64_t> bytes_down = 0, bytes_up = 0;
  std::map<uint64_t, std::string> failures;
  DeviceTimes slowest;

 private:
  Setup setup_;
  WireLimits limits_;
  std::shared_ptr<const ParameterLayout> layout_;  // of the statistics alone
  strategy::RoundSums sums_;
  EncodedBodies encoded_;
  std::mutex mutex_;
  std::map<uint64_t, uint64_t> sent_;
};

}  // namespace espalier::round

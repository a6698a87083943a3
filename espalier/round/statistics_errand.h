#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "espalier/round/exchange.h"
#include "espalier/strategy/round_sums.h"
#include "espalier/strategy/strategy.h"

namespace espalier::round {

// Clients compute the normalization statistics of one width of the model over their samples
// (HeteroFL's static batch norm, Diao et al. 2021, section 3.3); their mean, weighed by samples,
// replaces the model's. A client that answers nonsense (another layout, a negative variance) is
// left out. Nothing is trained and nothing remembered.
class StatisticsErrand final : public Errand {
 public:
  // `model`: of that width; `units`: its units, empty for the whole model. `info` outlives this.
  StatisticsErrand(const strategy::RoundInfo& info, std::shared_ptr<const ParameterSet> model,
                   std::vector<int64_t> units, uint64_t max_clients, double max_weight);

  wire::TaskKind kind() const override { return wire::TaskKind::kCalibrate; }
  Outgoing prepare(uint64_t client) override;
  wire::WireLimits limits(uint64_t client, const Sent& sent) const override;
  void accept(uint64_t client, const Sent& sent, wire::Update& update) override;

  // Writes the clients' mean statistics into a model of that width. False without any: they stay.
  bool finish(ParameterSet& model) const;

 private:
  const strategy::RoundInfo& info_;
  std::shared_ptr<const ParameterSet> model_;      // shared with every task
  std::vector<int64_t> units_;                     // of the model; empty: the whole
  std::shared_ptr<const ParameterLayout> layout_;  // of the statistics alone
  strategy::RoundSums sums_;
};

}  // namespace espalier::round

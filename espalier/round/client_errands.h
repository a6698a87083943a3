#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "espalier/round/exchange.h"
#include "espalier/strategy/strategy.h"

// Two things that the server asks clients besides training; nothing is trained and nothing
// remembered. Of statistics: round/statistics_errand.h.
namespace espalier::round {

// Clients evaluate the model on their own test samples. What one says of itself is checked for
// sense, not for truth.
class EvaluationErrand final : public Errand {
 public:
  // `info` and `model` outlive this.
  EvaluationErrand(const strategy::RoundInfo& info, std::shared_ptr<const ParameterSet> model)
      : info_(info), model_(std::move(model)) {}

  wire::TaskKind kind() const override { return wire::TaskKind::kEvaluate; }
  Outgoing prepare(uint64_t client) override;
  wire::WireLimits limits(uint64_t client, const Sent& sent) const override;
  void accept(uint64_t client, const Sent& sent, wire::Update& update) override;

  // Added in the order of the clients' ids, whoever answered first.
  train::EvalSums sums() const;

 private:
  const strategy::RoundInfo& info_;
  std::shared_ptr<const ParameterSet> model_;
  std::mutex mutex_;
  std::map<uint64_t, train::EvalSums> found_;
};

// Clients send back a set of what they remember (client/recall.h), exactly.
class RecallErrand final : public Errand {
 public:
  // `versions`: of every client that is asked; outlives this. `model`: of the clients' nets.
  RecallErrand(const strategy::RoundInfo& info, std::string set,
               const std::map<uint64_t, uint32_t>& versions,
               std::shared_ptr<const ParameterLayout> model)
      : info_(info), set_(std::move(set)), versions_(versions), model_(std::move(model)) {}

  wire::TaskKind kind() const override { return wire::TaskKind::kRecall; }
  Outgoing prepare(uint64_t client) override;
  wire::WireLimits limits(uint64_t client, const Sent& sent) const override;
  void accept(uint64_t client, const Sent& sent, wire::Update& update) override;

  // By client.
  std::map<uint64_t, ParameterSet> take() { return std::move(found_); }

 private:
  const strategy::RoundInfo& info_;
  const std::string set_;
  const std::map<uint64_t, uint32_t>& versions_;
  std::shared_ptr<const ParameterLayout> model_;
  std::mutex mutex_;
  std::map<uint64_t, ParameterSet> found_;
};

}  // namespace espalier::round

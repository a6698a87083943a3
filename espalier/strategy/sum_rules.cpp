#include "espalier/strategy/sum_rules.h"

#include <algorithm>

namespace espalier::strategy {
namespace {

class WeightedMean final : public SumRule {
 public:
  void mean(const PayloadSum& payload, ParameterSet& mean) const override {
    payload.sum.mean(payload.sum.total_weight(), mean.values());
  }
};

class CoveredMean final : public SumRule {
 public:
  void mean(const PayloadSum& payload, ParameterSet& mean) const override {
    std::vector<ExactAccumulator::Covering> coverings;
    bool whole = true;
    for (const PayloadSum::Part& part : payload.parts) {
      coverings.push_back(
          {part.submodel != nullptr ? &part.submodel->map() : nullptr, part.weight});
      whole = whole && part.submodel == nullptr;
    }
    if (whole) {
      payload.sum.mean(payload.sum.total_weight(), mean.values());
    } else {
      payload.sum.mean_covered(coverings, mean.values());
    }
  }
};

class EstimatedMean final : public SumRule {
 public:
  EstimatedMean(const std::map<std::string, ParameterSet>& estimates, uint64_t num_clients)
      : estimates_(estimates), num_clients_(static_cast<double>(num_clients)) {}

  void admit(wire::Update& update) const override {
    for (wire::Payload& payload : update.payloads) payload.weight = 1;
  }
  bool reweighs() const override { return true; }
  void mean(const PayloadSum& payload, ParameterSet& mean) const override {
    ParameterSet corrections(mean.shared_layout());
    payload.sum.mean(num_clients_, corrections.values());
    const auto estimate = estimates_.find(payload.name);
    for (const ParameterInfo& tensor : mean.layout().tensors()) {
      // Statistics and counters are no directions to be estimated.
      if (!is_trainable(tensor.role)) continue;
      std::ranges::copy(corrections.values(tensor), mean.values(tensor).begin());
      if (estimate != estimates_.end())
        add_scaled(mean.values(tensor), 1.0f, estimate->second.values(tensor));
    }
  }

 private:
  const std::map<std::string, ParameterSet>& estimates_;
  double num_clients_;
};

}  // namespace

std::shared_ptr<const SumRule> weighted_mean() { return std::make_shared<WeightedMean>(); }
std::shared_ptr<const SumRule> covered_mean() { return std::make_shared<CoveredMean>(); }
std::shared_ptr<const SumRule> estimated_mean(const std::map<std::string, ParameterSet>& estimates,
                                              uint64_t num_clients) {
  return std::make_shared<EstimatedMean>(estimates, num_clients);
}

}  // namespace espalier::strategy

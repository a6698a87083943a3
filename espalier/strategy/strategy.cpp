#include "espalier/strategy/strategy.h"

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier::strategy {

void RoundSums::add(uint64_t client, const Update& update) {
  if (!(update.num_samples >= 0) || update.num_samples > 0x1p53) {
    fail("strategy/update", "expected a number of samples, got ", update.num_samples, " (client ",
         client, ")");
  }
  for (const auto& [name, value] : update.scalars) {
    if (!std::isfinite(value))
      fail("strategy/update", "the scalar '", name, "' is not finite (client ", client, ")");
  }
  const CoordinateMap* map = update.submodel != nullptr ? &update.submodel->map() : nullptr;
  std::vector<ExactAccumulator*> targets;
  {
    const std::lock_guard lock(mutex_);
    if (!answering_.insert(client).second)
      fail("strategy/update", "client ", client, " has already answered in this round");
    for (const Payload& payload : update.payloads) {
      auto& sum = sums_[payload.name];
      if (!sum) {
        const size_t size = map != nullptr ? map->full_size() : payload.values->size();
        sum = std::make_unique<ExactAccumulator>(size, max_clients_, max_weight_);
      }
      targets.push_back(sum.get());
    }
  }
  // Check everything before adding anything: a client's update counts whole or not at all.
  std::vector<float> largest;
  for (size_t i = 0; i < targets.size(); ++i) {
    largest.push_back(
        targets[i]->check(update.payloads[i].values->values(), update.payloads[i].weight, map));
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    targets[i]->add_checked(update.payloads[i].values->values(), update.payloads[i].weight,
                            largest[i], map);
  }
  const std::lock_guard lock(mutex_);
  Scalars& kept = by_client_[client] = {update.num_samples, update.scalars, update.submodel, {}};
  for (const Payload& payload : update.payloads) kept.weights[payload.name] = payload.weight;
}

const ExactAccumulator* RoundSums::find(const std::string& payload) const {
  const auto found = sums_.find(payload);
  return found == sums_.end() || found->second->contributions() == 0 ? nullptr
                                                                     : found->second.get();
}

ParameterSet RoundSums::mean(const std::string& payload,
                             const std::shared_ptr<const ParameterLayout>& layout) const {
  const ExactAccumulator* sum = find(payload);
  if (sum == nullptr) fail("strategy/round", "no client sent '", payload, "'");
  if (!(sum->total_weight() > 0))
    fail("strategy/round", "all weights of '", payload, "' are 0: the clients hold no samples");
  ParameterSet out(layout);
  if (aggregation_ == Aggregation::kCount) {
    std::vector<ExactAccumulator::Covering> coverings;
    bool parts = false;
    for (const auto& [client, kept] : by_client_) {
      if (const auto found = kept.weights.find(payload); found != kept.weights.end()) {
        coverings.push_back(
            {kept.submodel != nullptr ? &kept.submodel->map() : nullptr, found->second});
        parts = parts || kept.submodel != nullptr;
      }
    }
    if (parts) {
      sum->mean_covered(coverings, out.values());
      return out;
    }
  }
  if (estimates_ == nullptr) {
    sum->mean(sum->total_weight(), out.values());
    return out;
  }
  // Statistics and counters are no directions to be estimated: they stay the mean of who answered.
  ParameterSet answered(layout);
  sum->mean(sum->total_weight(), answered.values());
  sum->mean(static_cast<double>(estimated_clients_), out.values());
  const auto estimate = estimates_->find(payload);
  for (const ParameterInfo& tensor : layout->tensors()) {
    if (!is_trainable(tensor.role)) {
      std::ranges::copy(answered.values(tensor), out.values(tensor).begin());
    } else if (estimate != estimates_->end()) {
      add_scaled(out.values(tensor), 1.0f, estimate->second.values(tensor));
    }
  }
  return out;
}

std::vector<std::string> RoundSums::payloads() const {
  std::vector<std::string> names;
  for (const auto& [name, sum] : sums_) {
    if (sum->contributions() > 0) names.push_back(name);
  }
  return names;
}

double RoundSums::total_samples() const {
  double total = 0;
  for (const auto& [client, scalars] : by_client_) total += scalars.num_samples;
  return total;
}

double RoundSums::weighted_mean(const std::string& scalar) const {
  double total = 0, samples = 0;
  for (const auto& [client, scalars] : by_client_) {
    const auto found = scalars.values.find(scalar);
    if (found == scalars.values.end()) continue;
    total += scalars.num_samples * found->second;
    samples += scalars.num_samples;
  }
  return samples > 0 ? total / samples : 0;
}

double RoundSums::sum(const std::string& scalar) const {
  double total = 0;
  for (const auto& [client, scalars] : by_client_) {
    const auto found = scalars.values.find(scalar);
    if (found != scalars.values.end()) total += found->second;
  }
  return total;
}

std::optional<std::vector<std::shared_ptr<const submodel::Submodel>>> RoundSums::submodels() const {
  std::vector<std::shared_ptr<const submodel::Submodel>> all;
  for (const auto& [client, kept] : by_client_) {
    if (kept.submodel == nullptr) return std::nullopt;
    all.push_back(kept.submodel);
  }
  return all;
}

void Strategy::accumulate(const RoundInfo&, uint64_t client, const Update& update,
                          RoundSums& sums) {
  sums.add(client, update);
}

void Strategy::begin_round(const RoundInfo&, ParameterSet&) {}
uint64_t Strategy::explorers(const RoundInfo&) const { return 0; }

std::vector<std::string> Strategy::update_payloads(const RoundInfo&) const { return {kDelta}; }

void Strategy::check(const RoundInfo& round, const ParameterLayout& layout, double num_samples,
                     const Update& update) const {
  std::vector<std::string> names;
  for (const Payload& payload : update.payloads) {
    names.push_back(payload.name);
    if (!(payload.values->layout() == layout))
      fail("round/update", "payload '", payload.name, "' has another layout");
    if (!(payload.weight >= 0 && payload.weight <= std::max(1.0, num_samples))) {
      fail("round/update", "payload '", payload.name, "' claims the weight ", payload.weight,
           " for ", num_samples, " samples");
    }
  }
  std::vector<std::string> expected = update_payloads(round);
  std::sort(names.begin(), names.end());
  std::sort(expected.begin(), expected.end());
  if (names != expected)
    fail("round/update", "expected ", expected.size(), " payloads, got others or ", names.size());
}

int64_t Strategy::max_values(const ParameterLayout&, double) const { return 0; }

std::optional<train::EvalSums> Strategy::evaluate_saved(const SavedModel&) { return std::nullopt; }

void Strategy::set_scratch(const std::filesystem::path&) {}

void Strategy::save(ByteWriter&) const {}
void Strategy::load(ByteReader&) {}

const StrategyRow& find_strategy(const std::string& name) {
  std::vector<std::string> known;
  for (const StrategyRow& row : strategy_rows()) {
    if (row.name == name) return row;
    known.push_back(row.name);
  }
  fail("config", unknown_name_message("strategy", name, known));
}

}  // namespace espalier::strategy

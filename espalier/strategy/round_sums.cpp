#include "espalier/strategy/round_sums.h"

#include <cmath>

#include "espalier/base/error.h"

namespace espalier::strategy {

void RoundSums::check(uint64_t client, const wire::Update& update) {
  if (!(update.num_samples >= 0) || update.num_samples > 0x1p53) {
    fail("strategy/update", "expected a number of samples, got ", update.num_samples, " (client ",
         client, ")");
  }
  for (const auto& [name, value] : update.scalars) {
    if (!std::isfinite(value))
      fail("strategy/update", "the scalar '", name, "' is not finite (client ", client, ")");
  }
}

void RoundSums::begin(uint64_t client) {
  if (!answering_.insert(client).second)
    fail("strategy/update", "client ", client, " has already answered in this round");
}

void RoundSums::keep(uint64_t client, const wire::Update& update) {
  Scalars& kept = by_client_[client] = {update.num_samples, update.scalars, update.submodel, {}};
  for (const wire::Payload& payload : update.payloads) kept.weights[payload.name] = payload.weight;
}

ExactAccumulator& RoundSums::made(const std::string& payload, const ParameterLayout& layout) {
  auto& sum = sums_[payload];
  if (!sum) {
    sum = std::make_unique<ExactAccumulator>(layout.size(), max_clients_, max_weight_,
                                             ExactAccumulator::wide(layout));
  }
  return *sum;
}

namespace {

// As many as add_checked() takes in one pass; more would leave the caches meanwhile.
constexpr size_t kMostWaiting = 4, kMostWaitingBytes = size_t{32} << 20;

}  // namespace

void RoundSums::add(Waiting waiting) {
  if (waiting.sum != nullptr) waiting.sum->add_checked(waiting.contributions);
}

void RoundSums::add_waiting() const {
  for (auto& [payload, waiting] : waiting_) add(std::move(waiting));
  waiting_.clear();
}

void RoundSums::add(uint64_t client, const wire::Update& update) {
  check(client, update);
  const CoordinateMap* map = update.submodel != nullptr ? &update.submodel->map() : nullptr;
  std::vector<ExactAccumulator*> targets;
  {
    const std::lock_guard lock(mutex_);
    begin(client);
    for (const wire::Payload& payload : update.payloads) {
      targets.push_back(&made(payload.name, map != nullptr ? *update.submodel->full_layout()
                                                           : payload.values->layout()));
    }
  }
  // Check everything before adding anything: a client's update counts whole or not at all.
  std::vector<float> largest;
  for (size_t i = 0; i < targets.size(); ++i) {
    const wire::Payload& payload = update.payloads[i];
    largest.push_back(
        targets[i]->check(payload.values->values(), payload.weight, map, payload.largest));
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    const wire::Payload& payload = update.payloads[i];
    if (map != nullptr) {
      targets[i]->add_checked(payload.values->values(), payload.weight, largest[i], map);
      continue;
    }
    Waiting full{};
    {
      const std::lock_guard lock(mutex_);
      Waiting& waiting = waiting_[payload.name];
      waiting.sum = targets[i];
      waiting.values.push_back(payload.values);
      waiting.contributions.push_back({payload.values->values(), payload.weight, largest[i]});
      const size_t count = waiting.values.size(), bytes = payload.values->size() * sizeof(float);
      if (count < kMostWaiting && (count + 1) * bytes <= kMostWaitingBytes) continue;
      std::swap(full, waiting);
    }
    add(std::move(full));
  }
  const std::lock_guard lock(mutex_);
  keep(client, update);
}

void RoundSums::count(uint64_t client, const wire::Update& update) {
  check(client, update);
  const std::lock_guard lock(mutex_);
  begin(client);
  keep(client, update);
}

ExactAccumulator& RoundSums::accumulator(const std::string& payload,
                                         const ParameterLayout& layout) {
  const std::lock_guard lock(mutex_);
  add_waiting();
  return made(payload, layout);
}

const ExactAccumulator* RoundSums::find(const std::string& payload) const {
  add_waiting();
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
  std::vector<PayloadSum::Part> parts;
  for (const auto& [client, kept] : by_client_) {
    if (const auto found = kept.weights.find(payload); found != kept.weights.end())
      parts.push_back({kept.submodel.get(), found->second});
  }
  ParameterSet out(layout);
  const PayloadSum all{payload, *sum, parts};
  for (const auto& rule : rules_) rule->mean(all, out);
  return out;
}

std::vector<std::string> RoundSums::payloads() const {
  add_waiting();
  std::vector<std::string> names;
  for (const auto& [name, sum] : sums_) {
    if (sum->contributions() > 0) names.push_back(name);
  }
  return names;
}

double RoundSums::weighted_mean_of(const std::string& scalar) const {
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

}  // namespace espalier::strategy

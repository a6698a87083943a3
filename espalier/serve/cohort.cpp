#include "espalier/serve/cohort.h"

#include <algorithm>
#include <cmath>

namespace espalier::serve {

namespace {

constexpr double kFirst = 1.3;    // times the goal, before anything is measured
constexpr size_t kMost = 3;       // times the goal
constexpr double kSure = 0.99;    // that enough answer
constexpr size_t kMemory = 1000;  // devices
// Devices of which the share that drops out says something.
constexpr size_t kLeastToKnow = 20, kEnoughToKnow = 500;

// P(Binomial(trials, 1 − drop_out) ≥ goal).
double enough_answer(size_t trials, size_t goal, double drop_out) {
  if (drop_out <= 0) return trials >= goal ? 1 : 0;
  // The sum over the number that drops out, which is the shorter one.
  const auto n = static_cast<double>(trials);
  double sum = 0;
  for (size_t lost = 0; lost + goal <= trials; ++lost) {
    const auto k = static_cast<double>(lost);
    sum += std::exp(std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1) +
                    k * std::log(drop_out) + (n - k) * std::log1p(-drop_out));
  }
  return sum;
}

size_t ceiling(double value) { return static_cast<size_t>(std::ceil(value - 1e-9)); }

}  // namespace

Cohort::Cohort(const CohortOptions& options) : options_(options) {}

size_t Cohort::needed(size_t goal, double drop_out) {
  // Grows with M: halving finds it.
  size_t low = goal, high = std::max<size_t>(kMost * goal, goal + 1);
  if (enough_answer(high, goal, drop_out) < kSure) return high;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    if (enough_answer(middle, goal, drop_out) >= kSure) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

bool Cohort::measured(size_t goal) const {
  return known().asked >= std::clamp(goal, kLeastToKnow, kEnoughToKnow);
}

double Cohort::drop_out() const {
  const Round sum = known();
  return sum.asked == 0
             ? 0
             : static_cast<double>(sum.asked - sum.answered) / static_cast<double>(sum.asked);
}

size_t Cohort::wanted(size_t goal) const {
  if (goal == 0) return 0;
  const bool fixed = options_.over_selection > 0;
  if (fixed || !measured(goal)) {
    const double factor = fixed ? options_.over_selection : kFirst;
    return std::max(goal, ceiling(factor * static_cast<double>(goal)));
  }
  // One more of each kind than were seen, and one standard error: M has to suffice for what d is,
  // and not only for what it was seen to be.
  const Round sum = known();
  const double n = static_cast<double>(sum.asked) + 2;
  const double seen = static_cast<double>(sum.asked - sum.answered + 1) / n;
  return needed(goal, std::min(0.99, seen + std::sqrt(seen * (1 - seen) / n)));
}

size_t Cohort::least(size_t goal) const {
  return std::max<size_t>(1, ceiling(options_.min_fraction * static_cast<double>(goal)));
}

bool Cohort::may_begin(size_t goal, size_t present, double waited_s) const {
  return present >= wanted(goal) ||
         (waited_s >= options_.select_window_s && present >= least(goal));
}

std::vector<uint64_t> Cohort::draw(Key key, std::span<const uint64_t> present, size_t goal) const {
  std::vector<uint64_t> clients =
      sample_without_replacement(key, present.size(), std::min(wanted(goal), present.size()));
  for (uint64_t& client : clients) client = present[client];
  return clients;
}

bool Cohort::counts(size_t answered, size_t enough) const {
  return static_cast<double>(answered) >= options_.min_fraction * static_cast<double>(enough);
}

Cohort::Round Cohort::known() const {
  Round sum;
  for (size_t i = 0; i + 1 < rounds_.size(); ++i) {
    sum.asked += rounds_[i].asked;
    sum.answered += rounds_[i].answered;
  }
  return sum;
}

void Cohort::ask(std::span<const uint64_t> clients) {
  rounds_.push_back({clients.size(), 0});
  ++begun_;
  // The oldest goes when the others suffice.
  bool shorter = false;
  while (rounds_.size() > 2 && known().asked - rounds_.front().asked >= kMemory) {
    rounds_.pop_front();
    shorter = true;
  }
  if (shorter)
    std::erase_if(asked_, [&](const auto& one) { return one.second + rounds_.size() <= begun_; });
  for (const uint64_t client : clients) asked_[client] = begun_;
}

// The round that awaits the client, which it does no more.
Cohort::Round* Cohort::forget(uint64_t client) {
  const auto found = asked_.find(client);
  if (found == asked_.end()) return nullptr;
  const uint64_t back = begun_ - found->second;
  asked_.erase(found);
  return &rounds_[rounds_.size() - 1 - back];
}

void Cohort::answered(uint64_t client) {
  if (Round* round = forget(client)) ++round->answered;
}

void Cohort::withdrawn(uint64_t client) {
  if (Round* round = forget(client)) --round->asked;
}

}  // namespace espalier::serve

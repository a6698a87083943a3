#include "espalier/serve/cohort.h"

#include <algorithm>
#include <cmath>

namespace espalier::serve {

namespace {

constexpr double kFirst = 1.3;    // times the goal, before anything is measured
constexpr size_t kMost = 3;       // times the goal
constexpr double kSure = 0.99;    // that enough answer
constexpr double kMemory = 1000;  // devices
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
  return settled_ >= static_cast<double>(std::clamp(goal, kLeastToKnow, kEnoughToKnow));
}

double Cohort::drop_out() const { return settled_ > 0 ? dropped_out_ / settled_ : 0; }

size_t Cohort::wanted(size_t goal) const {
  if (goal == 0) return 0;
  const bool fixed = options_.over_selection > 0;
  if (fixed || !measured(goal)) {
    const double factor = fixed ? options_.over_selection : kFirst;
    return std::max(goal, ceiling(factor * static_cast<double>(goal)));
  }
  // One more of each kind than were seen: that nobody has dropped out yet proves little.
  return needed(goal, (dropped_out_ + 1) / (settled_ + 2));
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

void Cohort::ask(std::span<const uint64_t> clients, double now_s) {
  for (auto one = asked_.begin(); one != asked_.end();) {
    const bool lost = now_s - one->second > options_.patience_s;
    if (lost) learn(true);
    one = lost ? asked_.erase(one) : std::next(one);
  }
  for (const uint64_t client : clients) asked_[client] = now_s;
}

void Cohort::settle(uint64_t client, bool dropped) {
  if (asked_.erase(client) > 0) learn(dropped);
}

void Cohort::learn(bool dropped) {
  constexpr double kKept = 1 - 1 / kMemory;
  settled_ = settled_ * kKept + 1;
  dropped_out_ = dropped_out_ * kKept + (dropped ? 1 : 0);
}

}  // namespace espalier::serve

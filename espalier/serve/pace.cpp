#include "espalier/serve/pace.h"

#include <algorithm>
#include <numeric>

namespace espalier::serve {

Pace::Pace(const PaceOptions& options) : options_(options) {}

void Pace::selecting(size_t wanted) {
  selecting_ = wanted;
  if (wanted_ == 0) wanted_ = wanted;
}

void Pace::opened(double now_s) {
  constexpr size_t kPeriods = 8;
  if (opened_s_) periods_s_.push_back(now_s - *opened_s_);
  if (periods_s_.size() > kPeriods) periods_s_.pop_front();
  opened_s_ = now_s;
  if (selecting_ > 0) wanted_ = selecting_;
  selecting_ = 0;
}

void Pace::not_opened() { selecting_ = 0; }

double Pace::period_s() const {
  if (periods_s_.empty()) return options_.first_period_s;
  return std::accumulate(periods_s_.begin(), periods_s_.end(), 0.0) /
         static_cast<double>(periods_s_.size());
}

double Pace::raw_spacing_s(double population) const {
  if (wanted_ == 0) return 0;
  return population * period_s() / (options_.oversupply * static_cast<double>(wanted_));
}

double Pace::spacing_s(double population) const {
  if (wanted_ == 0) return 0;
  return std::clamp(raw_spacing_s(population), options_.shortest_s, options_.longest_s);
}

bool Pace::spreads(double population) const {
  return wanted_ > 0 && population >= options_.oversupply * static_cast<double>(wanted_) &&
         raw_spacing_s(population) >= options_.shortest_s;
}

std::optional<double> Pace::until_opening_s(double now_s) const {
  if (selecting_ > 0 || !opened_s_ || periods_s_.empty()) return std::nullopt;
  return *opened_s_ + *std::min_element(periods_s_.begin(), periods_s_.end()) - now_s;
}

std::optional<Window> Pace::answer(const Asking& asking, double now_s) const {
  if (spreads(asking.population)) {
    const size_t room = std::max(wanted_, selecting_);
    if (!asking.just_used && asking.waiting < room) return std::nullopt;
    if (periods_s_.empty() && asking.waiting < options_.first_line) return std::nullopt;
    const double spacing = spacing_s(asking.population);
    return Window{std::max(options_.shortest_s, 0.75 * spacing),
                  std::min(options_.longest_s, 1.25 * spacing)};
  }
  const auto until = until_opening_s(now_s);
  if (!until || *until <= options_.line_s) return std::nullopt;
  const double latest = std::clamp(*until, options_.shortest_s, options_.longest_s);
  return Window{std::max(options_.shortest_s, latest - options_.line_s), latest};
}

Window Pace::reconnect(double population) const {
  return {0, std::min(options_.longest_s, population / options_.reconnects_per_s)};
}

}  // namespace espalier::serve

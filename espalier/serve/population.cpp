#include "espalier/serve/population.h"

#include <algorithm>

namespace espalier::serve {

namespace {

constexpr double kHour = 3600;

size_t hour_of(double seconds) { return static_cast<size_t>(seconds / kHour); }

}  // namespace

Population::Population(const PopulationOptions& options) : options_(options) {}

// Counts the client in the hour of `now_s`, and no more in that of its last call.
Population::Last& Population::move_to(uint64_t client, double now_s) {
  if (first_s_ < 0) first_s_ = now_s;
  if (client >= last_.size()) last_.resize(std::max<size_t>(client + 1, last_.size() * 3 / 2));
  Last& last = last_[client];
  const size_t hour = hour_of(now_s);
  if (hour >= heard_by_hour_.size()) heard_by_hour_.resize(hour + 1);
  if (last.heard) --heard_by_hour_[hour_of(last.seconds)];
  ++heard_by_hour_[hour];
  last.heard = 1;
  return last;
}

void Population::know(uint64_t client, double now_s) {
  move_to(client, now_s).seconds = static_cast<uint32_t>(now_s) & 0x3FFFFFFF;
}

void Population::seen(uint64_t client, double now_s) {
  Last& last = move_to(client, now_s);
  const double gap = last.asked ? now_s - last.seconds : options_.longest_gap_s;
  last.seconds = static_cast<uint32_t>(now_s) & 0x3FFFFFFF;
  last.asked = 1;
  const auto number = static_cast<int64_t>(now_s / kSlotSeconds);
  Slot& slot = slots_[static_cast<size_t>(number) % kSlots];
  if (slot.number != number) slot = {number, 0};
  slot.gaps_s += std::clamp(gap, 0.0, options_.longest_gap_s);
}

uint64_t Population::heard(double now_s) const {
  const size_t first = hour_of(std::max(0.0, now_s - options_.memory_s));
  uint64_t sum = 0;
  for (size_t hour = first; hour < heard_by_hour_.size(); ++hour) sum += heard_by_hour_[hour];
  return sum;
}

double Population::active(double now_s) const {
  const auto heard_of = static_cast<double>(heard(now_s));
  if (first_s_ < 0 || now_s - first_s_ < kHour) return heard_of;
  // The slot that has just begun is counted for as much of it as has passed.
  const auto number = static_cast<int64_t>(now_s / kSlotSeconds);
  double gaps = 0;
  for (const Slot& slot : slots_)
    if (slot.number > number - static_cast<int64_t>(kSlots)) gaps += slot.gaps_s;
  const double seconds =
      now_s - kSlotSeconds * static_cast<double>(number - static_cast<int64_t>(kSlots) + 1);
  return std::min(heard_of, gaps / seconds);
}

}  // namespace espalier::serve

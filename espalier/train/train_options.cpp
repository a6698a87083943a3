#include "espalier/train/train_options.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace espalier::train {

double lr_at_round(const ScheduleOptions& schedule, double lr, int64_t round) {
  const int64_t warmup = schedule.lr_warmup_rounds;
  if (round < warmup) return lr * static_cast<double>(round + 1) / static_cast<double>(warmup);
  const int64_t past = round - warmup;
  if (schedule.lr_schedule == "step") {
    return lr * std::pow(schedule.lr_decay, static_cast<double>(past / schedule.lr_step_rounds));
  }
  if (schedule.lr_schedule == "cosine") {
    const int64_t span = std::max<int64_t>(1, schedule.schedule_rounds - warmup);
    const double part = static_cast<double>(std::min(past, span - 1)) / static_cast<double>(span);
    return lr * 0.5 * (1 + std::cos(std::numbers::pi * part));
  }
  return lr;
}

}  // namespace espalier::train

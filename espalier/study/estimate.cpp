#include "espalier/study/estimate.h"

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier::study {

std::optional<double> seconds_left(const Work& cell, std::span<const Work> cells) {
  const double left = cell.rounds - cell.rounds_done;
  if (left <= 0) return 0;
  double rounds = 0, seconds = 0, all_rounds = 0, all_seconds = 0;
  for (const Work& other : cells) {
    all_rounds += other.rounds_done;
    all_seconds += other.seconds;
    if (other.variant != cell.variant) continue;
    rounds += other.rounds_done;
    seconds += other.seconds;
  }
  if (rounds > 0) return left * seconds / rounds;
  if (all_rounds > 0) return left * all_seconds / all_rounds;
  return std::nullopt;
}

size_t next_cell(std::span<const Work> cells, std::span<const size_t> waiting, size_t jobs) {
  ESPALIER_CHECK(jobs > 0 && !waiting.empty());
  double sum = 0, longest = 0;
  for (const Work& cell : cells)
    if (cell.pending) sum += seconds_left(cell, cells).value_or(0);
  size_t at = 0;
  for (size_t i = 0; i < waiting.size(); ++i) {
    const double one = seconds_left(cells[waiting[i]], cells).value_or(0);
    if (one <= longest) continue;
    longest = one;
    at = i;
  }
  return longest >= sum / static_cast<double>(jobs) ? at : 0;
}

std::optional<double> seconds_left(std::span<const Work> cells, size_t jobs) {
  ESPALIER_CHECK(jobs > 0);
  double sum = 0, longest = 0;
  for (const Work& cell : cells) {
    if (!cell.pending) continue;
    const auto one = seconds_left(cell, cells);
    if (!one) return std::nullopt;
    sum += *one;
    longest = std::max(longest, *one);
  }
  return std::max(sum / static_cast<double>(jobs), longest);
}

}  // namespace espalier::study

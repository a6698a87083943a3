#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace espalier::study {

// One cell, as far as its time goes.
struct Work {
  size_t variant = 0;
  double rounds = 0, rounds_done = 0;
  double seconds = 0;    // that the rounds done took
  bool pending = false;  // this process is to finish it
};

// Seconds until `jobs` at a time have finished what is pending: rounds left times what a round of
// the same variant took so far, or of any variant where its own has none; at least as long as the
// longest cell alone. nullopt as long as no round has been done.
std::optional<double> seconds_left(std::span<const Work> cells, size_t jobs);

// The same of one cell.
std::optional<double> seconds_left(const Work& cell, std::span<const Work> cells);

// Which of the cells `waiting` (indices, at least one, in the study's order) is to be started next,
// as an index of `waiting`: the first, so that an unfinished study has all variants of the first
// seeds; but when the longest of them takes, alone, at least as long as all that is pending takes
// when it is shared out, that one. Started later, it would still run when all others are done.
size_t next_cell(std::span<const Work> cells, std::span<const size_t> waiting, size_t jobs);

}  // namespace espalier::study

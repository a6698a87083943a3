#include "espalier/study/estimate.h"

#include <gtest/gtest.h>

#include <vector>

namespace espalier::study {
namespace {

TEST(Estimate, ByHand) {
  // Variant 0 takes 2 s a round, variant 1 8 s, variant 2 nobody knows: (20 + 32) / 14 rounds.
  const std::vector<Work> cells = {
      {.variant = 0, .rounds = 10, .rounds_done = 10, .seconds = 20},
      {.variant = 0, .rounds = 10, .pending = true},                                   // 20
      {.variant = 1, .rounds = 10, .rounds_done = 4, .seconds = 32, .pending = true},  // 48
      {.variant = 2, .rounds = 7, .pending = true},                                    // 26
      {.variant = 2, .rounds = 100},  // another shard's
  };
  EXPECT_DOUBLE_EQ(*seconds_left(cells[3], cells), 26);
  EXPECT_DOUBLE_EQ(*seconds_left(cells, 1), 94);
  EXPECT_DOUBLE_EQ(*seconds_left(cells, 2), 48);  // 47, but one cell alone takes 48
}

TEST(Estimate, ACellThatWouldEndLastGoesFirst) {
  std::vector<Work> cells = {
      {.variant = 0, .rounds = 10, .rounds_done = 10, .seconds = 10},  // 1 s a round
      {.variant = 1, .rounds = 10, .rounds_done = 1, .seconds = 5},    // 5 s; another shard's
      {.variant = 0, .rounds = 10, .pending = true},                   // 10
      {.variant = 1, .rounds = 10, .pending = true},                   // 50
      {.variant = 0, .rounds = 10, .pending = true},                   // 10
      {.variant = 1, .rounds = 10, .pending = true},                   // 50
  };
  const std::vector<size_t> all = {2, 3, 4, 5}, rest = {2, 4, 5}, last = {2, 4};
  EXPECT_EQ(next_cell(cells, all, 1), 0U);  // 120 s in any order
  EXPECT_EQ(next_cell(cells, all, 2), 0U);  // 60 s each: cell 3 can wait
  EXPECT_EQ(next_cell(cells, all, 3), 1U);  // 40 s each, and cell 3 takes 50
  EXPECT_EQ(next_cell(cells, rest, 3), 2U);
  EXPECT_EQ(next_cell(cells, last, 3), 0U);
  // As long as nothing is known: the study's order.
  for (Work& cell : cells) cell.rounds_done = cell.seconds = 0;
  EXPECT_EQ(next_cell(cells, all, 3), 0U);
}

TEST(Estimate, NothingKnownNothingSaid) {
  const std::vector<Work> cells = {{.variant = 0, .rounds = 10, .pending = true}};
  EXPECT_FALSE(seconds_left(cells, 1));
  EXPECT_DOUBLE_EQ(*seconds_left(std::vector<Work>{{.rounds = 3, .rounds_done = 3}}, 1), 0);
}

}  // namespace
}  // namespace espalier::study

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

TEST(Estimate, NothingKnownNothingSaid) {
  const std::vector<Work> cells = {{.variant = 0, .rounds = 10, .pending = true}};
  EXPECT_FALSE(seconds_left(cells, 1));
  EXPECT_DOUBLE_EQ(*seconds_left(std::vector<Work>{{.rounds = 3, .rounds_done = 3}}, 1), 0);
}

}  // namespace
}  // namespace espalier::study

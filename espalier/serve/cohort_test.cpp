#include "espalier/serve/cohort.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier::serve {
namespace {

using testing::ElementsAre;

std::vector<uint64_t> range(uint64_t count, uint64_t first = 0) {
  std::vector<uint64_t> out(count);
  std::iota(out.begin(), out.end(), first);
  return out;
}

TEST(Cohort, SoManyAreNeededThatEnoughAnswer) {
  const auto needed = [](size_t goal) {
    std::vector<size_t> out;
    for (const double drop_out : {0.0, 0.06, 0.1, 0.2, 0.3})
      out.push_back(Cohort::needed(goal, drop_out));
    return out;
  };
  EXPECT_THAT(needed(10), ElementsAre(10, 13, 14, 18, 21));
  EXPECT_THAT(needed(100), ElementsAre(100, 113, 120, 139, 162));
  EXPECT_THAT(needed(1000), ElementsAre(1000, 1084, 1138, 1292, 1487));
  // By hand: one of two answers with 1 − 0.1^2 = 0.99.
  EXPECT_EQ(Cohort::needed(1, 0.0999), 2U);
  EXPECT_EQ(Cohort::needed(1, 0.1001), 3U);
  EXPECT_EQ(Cohort::needed(100, 0.9), 300U) << "at most three times as many";
}

TEST(Cohort, AsksForThirtyPercentMoreUntilItKnows) {
  Cohort cohort({});
  EXPECT_EQ(cohort.wanted(100), 130U);
  EXPECT_EQ(cohort.wanted(0), 0U);
  EXPECT_EQ(cohort.wanted(1), 2U);
  // Rounds of 130 in which every tenth drops out.
  for (uint64_t round = 0; round < 10; ++round) {
    const auto asked = range(130, 1000 * round);
    cohort.ask(asked);
    if (round == 1) {
      EXPECT_TRUE(cohort.measured(100));
      EXPECT_NEAR(cohort.drop_out(), 0.1, 1e-9) << "after one round, when the next has begun";
    }
    for (const uint64_t client : asked)
      if (client % 10 != 0) cohort.answered(client);
  }
  EXPECT_NEAR(cohort.drop_out(), 0.1, 1e-9);
  // Of 1170 seen: 10 % and a standard error of 0.9 %.
  EXPECT_NEAR(static_cast<double>(cohort.wanted(100)),
              static_cast<double>(Cohort::needed(100, 0.109)), 1);
  EXPECT_EQ(Cohort({.over_selection = 1.5}).wanted(100), 150U) << "a fixed one stays";
}

TEST(Cohort, LateAnswersAreNoDropOut) {
  Cohort cohort({});
  cohort.ask(range(40));
  for (uint64_t client = 0; client < 30; ++client) cohort.answered(client);
  cohort.answered(3);   // again
  cohort.answered(99);  // was not asked
  EXPECT_EQ(cohort.drop_out(), 0);
  EXPECT_FALSE(cohort.measured(10)) << "ten others still work";
  cohort.ask(range(40, 100));
  EXPECT_TRUE(cohort.measured(10));
  EXPECT_EQ(cohort.drop_out(), 0.25);
  for (uint64_t client = 30; client < 36; ++client) cohort.answered(client);
  EXPECT_EQ(cohort.drop_out(), 0.1);
  for (uint64_t client = 36; client < 40; ++client) cohort.withdrawn(client);
  EXPECT_EQ(cohort.drop_out(), 0) << "they never heard of it";
}

TEST(Cohort, ForgetsRoundsThatLieFarBack) {
  Cohort cohort({});
  const auto round = [&](uint64_t answers) {
    const auto asked = range(100);
    cohort.ask(asked);
    for (uint64_t client = 0; client < answers; ++client) cohort.answered(client);
  };
  for (int i = 0; i < 20; ++i) round(50);
  EXPECT_NEAR(cohort.drop_out(), 0.5, 1e-9);
  EXPECT_EQ(cohort.wanted(100), Cohort::needed(100, 0.5 + std::sqrt(0.25 / 1002)));
  for (int i = 0; i < 12; ++i) round(100);
  EXPECT_EQ(cohort.drop_out(), 0) << "a thousand devices, ten rounds, and the newest";
}

TEST(Cohort, BeginsWithAllOrAfterTheWindowWithEnough) {
  const Cohort cohort({.over_selection = 1.5, .min_fraction = 0.55, .select_window_s = 60});
  EXPECT_EQ(cohort.least(10), 6U);
  EXPECT_EQ(cohort.least(1), 1U);
  EXPECT_FALSE(cohort.may_begin(10, 14, 59));
  EXPECT_TRUE(cohort.may_begin(10, 15, 0));
  EXPECT_TRUE(cohort.may_begin(10, 6, 60));
  EXPECT_FALSE(cohort.may_begin(10, 5, 6000));
  EXPECT_EQ(Cohort::enough(10, 15), 10U);
  EXPECT_EQ(Cohort::enough(10, 7), 7U);
  EXPECT_TRUE(cohort.counts(6, 10));
  EXPECT_FALSE(cohort.counts(5, 10));
}

TEST(Cohort, DrawsAmongThoseThatAreThere) {
  const Cohort cohort({.over_selection = 1.5});
  const std::vector<uint64_t> present{3, 50, 51, 700};
  EXPECT_THAT(cohort.draw(Key(1), present, 3), testing::ElementsAreArray(present));
  const auto drawn = cohort.draw(Key(1), present, 2);
  EXPECT_THAT(drawn, testing::SizeIs(3));
  EXPECT_TRUE(std::ranges::is_sorted(drawn));
  EXPECT_EQ(cohort.draw(Key(1), present, 2), drawn);
  EXPECT_THAT(cohort.draw(Key(1), {}, 2), testing::IsEmpty());
}

}  // namespace
}  // namespace espalier::serve

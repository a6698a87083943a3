#include "espalier/serve/pace.h"

#include <gtest/gtest.h>

#include <cmath>

#include "espalier/base/random.h"

namespace espalier::serve {
namespace {

constexpr double kHour = 3600, kDay = 24 * kHour;

// Rounds that want `wanted` and open every `period_s`, the last one at `now_s`.
Pace pace_of(size_t wanted, double period_s, double now_s = 100'000,
             const PaceOptions& options = {}) {
  Pace pace(options);
  for (int i = 4; i >= 0; --i) {
    pace.selecting(wanted);
    pace.opened(now_s - i * period_s);
  }
  return pace;
}

TEST(Pace, AMillionDevicesAndARoundAMinute) {
  // 10^6·60 / (3·130) s = 42.7 h: cut to a day, 11.6 check-ins a second; 6.5 are needed.
  PaceOptions patient;
  patient.longest_s = 100 * kHour;
  EXPECT_NEAR(pace_of(130, 60, 1e5, patient).spacing_s(1e6) / kHour, 42.735, 0.001);
  const Pace pace = pace_of(130, 60);
  EXPECT_EQ(pace.spacing_s(1e6), kDay);
  EXPECT_NEAR(1e6 / pace.spacing_s(1e6), 11.574, 0.001);
  EXPECT_NEAR(1e6 / pace_of(130, 60, 1e5, patient).spacing_s(1e6), 6.5, 0.001);
  const auto window = pace.answer({1e6, 130, false}, 100'001);
  ASSERT_TRUE(window);
  EXPECT_EQ(window->min_s, 18 * kHour);
  EXPECT_EQ(window->max_s, kDay);
  EXPECT_EQ(pace.reconnect(1e6).min_s, 0);
  EXPECT_NEAR(pace.reconnect(1e6).max_s / 60, 83.3, 0.1);
}

TEST(Pace, ManyAreSpreadAndAsManyAsARoundWantsStay) {
  const Pace pace = pace_of(10, 100);
  // 3000·100 / 30 = 10,000 s.
  EXPECT_TRUE(pace.spreads(3000));
  EXPECT_EQ(pace.spacing_s(3000), 10'000);
  EXPECT_FALSE(pace.answer({3000, 9, false}, 100'050)) << "the tenth";
  const auto window = pace.answer({3000, 10, false}, 100'050);
  ASSERT_TRUE(window);
  EXPECT_EQ(window->min_s, 7500);
  EXPECT_EQ(window->max_s, 12'500);
  EXPECT_TRUE(pace.answer({3000, 0, true}, 100'050)) << "it has just been used, and others come";
}

TEST(Pace, FewComeTogetherAtTheNextOpening) {
  Pace pace = pace_of(10, 7200, 0);
  EXPECT_FALSE(pace.spreads(29));
  auto window = pace.answer({29, 0, true}, 1200);
  ASSERT_TRUE(window);  // it opens in 6000 s
  EXPECT_EQ(window->max_s, 6000);
  EXPECT_EQ(window->min_s, 5940);
  window = pace.answer({29, 20, false}, 7200 - 65);
  ASSERT_TRUE(window);
  EXPECT_EQ(window->max_s, 65);
  EXPECT_EQ(window->min_s, 10);
  EXPECT_FALSE(pace.answer({29, 20, false}, 7200 - 60)) << "it stays for a minute";
  EXPECT_FALSE(pace.answer({29, 20, false}, 9000)) << "it is due";
  // A round may be as short as the shortest of the last ones.
  pace.selecting(10);
  pace.opened(3600);
  EXPECT_EQ(pace.answer({29, 0, false}, 3600)->max_s, 3600);
}

TEST(Pace, NobodyGoesWhileARoundWaitsForThem) {
  Pace pace = pace_of(10, 7200, 0);
  pace.selecting(12);
  EXPECT_FALSE(pace.answer({29, 20, false}, 10));
  pace.not_opened();
  EXPECT_TRUE(pace.answer({29, 20, false}, 10));
  pace.selecting(20);
  EXPECT_FALSE(pace.answer({1e6, 15, false}, 10)) << "more are wanted than the last time";
  EXPECT_TRUE(pace.answer({1e6, 20, false}, 10));
}

TEST(Pace, BeforeTheFirstRoundEverybodyStays) {
  Pace pace;
  EXPECT_FALSE(pace.answer({1e6, 1'000'000, false}, 0));
  EXPECT_EQ(pace.spacing_s(1e6), 0);
  pace.selecting(100);
  // Nothing is measured: a round a minute, and a thousand may see for how long it lasts.
  EXPECT_FALSE(pace.answer({1e6, 999, true}, 0));
  EXPECT_TRUE(pace.answer({1e6, 1000, false}, 0));
  EXPECT_EQ(pace.period_s(), 60);
}

TEST(Pace, TinyRoundsKeepWhomTheyCouldNotCallBackInTime) {
  // 390 devices, 13 wanted a second: T would be 10 s.
  EXPECT_TRUE(pace_of(13, 1).spreads(390));
  EXPECT_FALSE(pace_of(13, 1).spreads(389));
  EXPECT_FALSE(pace_of(13, 1).answer({389, 300, false}, 100'000));
}

// Whatever the numbers: within [10 s, 24 h], and in order.
TEST(Pace, NoWindowIsShorterThanTenSecondsOrLongerThanADay) {
  Stream random(Key(7));
  size_t windows = 0;
  for (int i = 0; i < 20'000; ++i) {
    const double population = std::pow(10, 9 * random.uniform());
    const auto wanted = static_cast<size_t>(std::pow(10, 5 * random.uniform()));
    const double period = std::pow(10, 7 * random.uniform() - 2);
    const Pace pace = pace_of(wanted, period, 1e6);
    const auto window = pace.answer(
        {population, static_cast<size_t>(random.below(2 * wanted + 1)), random.below(2) == 0},
        1e6 + 1.5 * period * random.uniform());
    EXPECT_LE(pace.reconnect(population).max_s, kDay);
    if (!window) continue;
    ++windows;
    ASSERT_GE(window->min_s, 10);
    ASSERT_LE(window->max_s, kDay);
    ASSERT_LE(window->min_s, window->max_s);
    if (pace.spreads(population) && pace.spacing_s(population) < kDay / 1.25 &&
        pace.spacing_s(population) > 10 / 0.75) {
      ASSERT_NEAR((window->min_s + window->max_s) / 2, pace.spacing_s(population), 1e-6);
    }
  }
  EXPECT_GT(windows, 5000U);
}

}  // namespace
}  // namespace espalier::serve

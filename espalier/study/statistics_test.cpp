#include "espalier/study/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace espalier::study {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(Statistics, MeanAndDeviationByHand) {
  // 2, 4, 9: mean 5, squares 9 + 1 + 16 = 26, sd √(26/2) = √13.
  const auto found = moments(std::vector<double>{2, 4, 9});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->n, 3u);
  EXPECT_DOUBLE_EQ(found->mean, 5);
  EXPECT_DOUBLE_EQ(*found->sd, std::sqrt(13.0));
  EXPECT_FALSE(moments(std::vector<double>{7})->sd);
  EXPECT_FALSE(moments(std::vector<double>{}));
}

TEST(Statistics, QuantilesOfTheTables) {
  // Two-sided 95 %, as printed tables have them (three decimals).
  const std::pair<size_t, double> table[] = {{1, 12.706}, {2, 4.303},  {3, 3.182},  {4, 2.776},
                                             {5, 2.571},  {9, 2.262},  {10, 2.228}, {29, 2.045},
                                             {30, 2.042}, {100, 1.984}};
  for (const auto& [freedom, t] : table)
    EXPECT_NEAR(student_t(freedom), t, 0.0005) << freedom << " degrees";
  EXPECT_NEAR(student_t(4, 0.99), 4.604, 0.0005);
  EXPECT_NEAR(student_t(1, 0.5), 1, 1e-12);  // tan(π/4)
  EXPECT_NEAR(student_t(2, 0.5), std::sqrt(2.0 / 3), 1e-12);
  EXPECT_NEAR(student_t(10'000), 1.960, 0.0005);
}

TEST(Statistics, PairedDifferenceByHand) {
  // Differences 1, 2, 3: mean 2, sd 1; t(2) = 4.30265 and √3: ± 2.48414. The seeds themselves lie
  // far apart, which pairing takes out.
  const BySeed baseline = {{1, 50}, {2, 60}, {3, 70}};
  const auto found = paired_difference({{3, 73}, {1, 51}, {2, 62}}, baseline);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->moments.n, 3u);
  EXPECT_DOUBLE_EQ(found->moments.mean, 2);
  EXPECT_NEAR(*found->half_width, 2.48414, 1e-5);

  // A seed that one of them lacks counts for neither.
  const auto fewer = paired_difference({{1, 51}, {3, 73}, {4, 90}}, baseline);
  EXPECT_EQ(fewer->moments.n, 2u);
  EXPECT_DOUBLE_EQ(fewer->moments.mean, 2);
  EXPECT_NEAR(*fewer->half_width, 12.7062 * std::sqrt(2.0) / std::sqrt(2.0), 1e-4);
  EXPECT_FALSE(paired_difference({{1, 51}}, baseline)->half_width);
  EXPECT_FALSE(paired_difference({{9, 51}}, baseline));
}

TEST(Statistics, RatiosOfCommonSeeds) {
  const BySeed baseline = {{1, 10}, {2, 30}};
  EXPECT_DOUBLE_EQ(*ratio({{1, 5}, {2, 5}, {3, 1000}}, baseline), 0.25);
  EXPECT_FALSE(ratio({{3, 5}}, baseline));
  EXPECT_FALSE(ratio({{1, 5}}, {{1, 0}}));
}

TEST(Statistics, ParetoFrontByHand) {
  //                                 0        1        2        3         4        5
  const std::vector<Point> points = {{4, 90}, {1, 70}, {2, 60}, {3, 80}, {3, 75}, {5, 85}};
  EXPECT_THAT(pareto_front(points), ElementsAre(1, 3, 0));
  EXPECT_THAT(pareto_front({}), IsEmpty());
  // Equal points are both on it; the dearer one of two equally good is not.
  EXPECT_THAT(pareto_front(std::vector<Point>{{1, 5}, {1, 5}, {2, 5}}), ElementsAre(0, 1));
}

}  // namespace
}  // namespace espalier::study

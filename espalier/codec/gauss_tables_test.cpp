#include "espalier/codec/gauss_tables.h"

#include <gtest/gtest.h>

#include <cmath>

namespace espalier::codec {
namespace {

TEST(GaussTables, FunctionsAgreeWithTheMathLibrary) {
  for (double x = -600; x < 600; x += 3.7) EXPECT_NEAR(exp_fixed(x) / std::exp(x), 1, 1e-13) << x;
  for (double x = 1e-30; x < 1e30; x *= 1.93) EXPECT_NEAR(log2_fixed(x), std::log2(x), 1e-13) << x;
  for (double x = -9; x < 30; x += 0.037) {
    const double expected = 0.5 * std::erfc(x / std::sqrt(2.0));
    EXPECT_NEAR(normal_upper_tail(x) / expected, 1, 1e-12) << x;
  }
  for (double p = 1e-5; p < 1; p += 0.0137) {
    EXPECT_NEAR(1 - normal_upper_tail(normal_quantile(p)), p, 1e-14) << p;
  }
  EXPECT_NEAR(normal_cell(-1, 1), std::erf(std::sqrt(0.5)), 1e-14);
  EXPECT_NEAR(
      normal_cell(5, 6) / (0.5 * (std::erfc(5 / std::sqrt(2.0)) - std::erfc(6 / std::sqrt(2.0)))),
      1, 1e-11);
}

// Max 1960, table I, and the errors of the specification.
TEST(GaussTables, LloydMaxIsTheKnownQuantizer) {
  EXPECT_NEAR(lloyd_max(2).centroids[1], std::sqrt(2 / M_PI), 1e-12);
  EXPECT_NEAR(lloyd_max(4).centroids[2], 0.4528, 1e-4);
  EXPECT_NEAR(lloyd_max(4).centroids[3], 1.510, 1e-3);
  EXPECT_NEAR(lloyd_max(8).thresholds[6], 1.748, 1e-3);
  EXPECT_NEAR(lloyd_max(2).mse, 0.3634, 5e-5);
  EXPECT_NEAR(lloyd_max(3).mse, 0.1902, 5e-5);
  EXPECT_NEAR(lloyd_max(4).mse, 0.11748, 5e-6);
  EXPECT_NEAR(lloyd_max(8).mse, 0.034548, 5e-7);
  EXPECT_NEAR(lloyd_max(16).mse, 0.0095010, 5e-7);
  EXPECT_NEAR(lloyd_max(256).mse, 4.12e-5, 2e-7);
}

TEST(GaussTables, LloydMaxIsAFixedPoint) {
  for (size_t levels = 2; levels <= 256; levels += levels < 20 ? 1 : 59) {
    const LloydMax q = lloyd_max(levels);
    ASSERT_EQ(q.centroids.size(), levels);
    ASSERT_EQ(q.thresholds.size(), levels - 1);
    for (size_t i = 0; i < levels; ++i) {
      const double low = i == 0 ? -40 : q.thresholds[i - 1],
                   high = i + 1 == levels ? 40 : q.thresholds[i];
      const double mean = (normal_density(low) - normal_density(high)) / normal_cell(low, high);
      EXPECT_NEAR(q.centroids[i], mean, 1e-10) << levels << " levels, centroid " << i;
      EXPECT_EQ(q.centroids[i], -q.centroids[levels - 1 - i]);
    }
  }
}

TEST(GaussTables, DitheredStepsAreTheSpecifiedOnes) {
  EXPECT_NEAR(dithered_step(1), 2.57225, 6e-6);
  EXPECT_NEAR(dithered_step(2), 1.08245, 6e-6);
  EXPECT_NEAR(dithered_step(3), 0.52243, 6e-6);
  EXPECT_NEAR(dithered_step(4), 0.25902, 6e-6);
  double previous = 1e9;
  for (double bits = 0.25; bits <= 8; bits += 0.25) {
    const double step = dithered_step(bits);
    EXPECT_LT(step, previous);
    EXPECT_NEAR(dithered_entropy(step), bits, 1e-10);
    previous = step;
  }
}

}  // namespace
}  // namespace espalier::codec

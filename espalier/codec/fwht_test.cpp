#include "espalier/codec/fwht.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "espalier/codec/test_inputs.h"
#include "espalier/codec/test_targets.h"

namespace espalier::codec {
namespace {

// The definition, level by level.
std::vector<float> reference_fwht(std::vector<float> x) {
  for (size_t h = 1; h < x.size(); h *= 2) {
    for (size_t i = 0; i < x.size(); ++i) {
      if (i & h) continue;
      const float a = x[i], b = x[i + h];
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
  return x;
}

std::vector<uint32_t> bits_of(const std::vector<float>& x) {
  std::vector<uint32_t> bits;
  for (const float value : x) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

TEST(Fwht, MatchesTheMatrixOnSmallIntegers) {
  for (size_t n : {1u, 2u, 8u, 64u, 512u}) {
    std::vector<float> x(n), expected(n);
    for (size_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 7) - 3;
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) expected[i] += std::popcount(i & j) % 2 == 0 ? x[j] : -x[j];
    }
    fwht(x);
    EXPECT_EQ(x, expected);
  }
}

TEST(Fwht, EveryTargetGivesTheBitsOfTheReference) {
  for (size_t log = 0; log <= 16; ++log) {
    const auto x = gaussian(size_t{1} << log, log);
    const auto expected = bits_of(reference_fwht(x));
    for_every_target([&] {
      auto y = x;
      fwht(y);
      EXPECT_EQ(bits_of(y), expected) << log;
    });
  }
}

TEST(Fwht, BlocksAreTransformedEachByItself) {
  for (size_t block : {1u, 16u, 1024u, 4096u, 8192u}) {
    auto x = gaussian(3 * block, block), expected = x;
    for (size_t b = 0; b < 3; ++b) fwht(std::span(expected).subspan(b * block, block));
    fwht_blocks(x, block);
    EXPECT_EQ(x, expected);
  }
}

TEST(FlipSigns, EveryTargetGivesTheSameBalancedSigns) {
  for (size_t n : {1u, 100u, 512u, 2048u, 5000u, 100003u}) {
    const std::vector<float> x(n, 3.0f);
    std::vector<float> first;
    for_every_target([&] {
      std::vector<float> y(n + 5, 9.0f);
      flip_signs(x, Key(n), 0.5f, y);
      if (first.empty()) first = y;
      EXPECT_EQ(y, first);
    });
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(std::abs(first[i]), 1.5f);
      sum += first[i] / 1.5;
    }
    for (size_t i = n; i < n + 5; ++i) EXPECT_EQ(first[i], 0);
    EXPECT_LE(std::abs(sum), 5 * std::sqrt(static_cast<double>(n)));
  }
}

TEST(FlipSigns, AreBitsOfPhilox) {
  std::vector<float> x(2500, 1.0f), y(2500);
  flip_signs(x, Key(77), 1, y);
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t line = i / 2048, k = i % 2048 / 512, t = i % 512 / 16, j = i % 16;
    const auto words = philox4x32({static_cast<uint32_t>(16 * line + j), 0, 0x5349474Eu, 0}, 77);
    ASSERT_EQ(y[i] < 0, ((words[k] >> (31 - t)) & 1) != 0) << i;
  }
}

TEST(Rotate, EveryTargetGivesTheBitsOfSignsAndTransform) {
  for (size_t n : {1024u, 2048u, 4096u}) {
    auto x = gaussian(n, n);
    std::vector<float> expected(n);
    flip_signs(x, Key(n), 0.015625f, expected);
    expected = reference_fwht(expected);
    const auto [low, high] = std::minmax_element(expected.begin(), expected.end());
    for_every_target([&] {
      std::vector<float> y(n);
      const Rotation rotation = rotate(x, Key(n), 0.015625f, y);
      if (!rotation.done) return;  // plain code has no fast way
      EXPECT_EQ(bits_of(y), bits_of(expected));
      EXPECT_EQ(rotation.range.low, *low);
      EXPECT_EQ(rotation.range.high, *high);
      EXPECT_TRUE(rotation.small);
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                              -std::numeric_limits<float>::infinity(), 0x1p97f}) {
        auto spoiled = x;
        spoiled[n - 3] = bad;
        EXPECT_FALSE(rotate(spoiled, Key(n), 0.015625f, y).small) << bad;
      }
    });
  }
}

TEST(Scale, MultipliesEveryValue) {
  for (size_t n : {0u, 1u, 15u, 100u}) {
    const auto x = gaussian(n, n);
    for_every_target([&] {
      auto y = x;
      scale(y, 0.7f);
      for (size_t i = 0; i < n; ++i) EXPECT_EQ(y[i], 0.7f * x[i]);
    });
  }
}

TEST(MaxMagnitude, FindsNumbersInfinitiesAndNan) {
  for (size_t n : {1u, 15u, 33u, 1000u}) {
    for (size_t at = 0; at < n; at += 1 + n / 7) {
      for (float value : {-7.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
        auto x = gaussian(n, n);
        x[at] = value;
        for_every_target([&] {
          EXPECT_EQ(max_magnitude_bits(x), std::bit_cast<uint32_t>(value) & 0x7fffffffu);
        });
      }
    }
  }
  EXPECT_EQ(max_magnitude_bits({}), 0u);
}

}  // namespace
}  // namespace espalier::codec

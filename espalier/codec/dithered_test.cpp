#include "espalier/codec/dithered.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/test_digest.h"
#include "espalier/codec/dithered_kernel.h"
#include "espalier/codec/entropy_scale.h"
#include "espalier/codec/gauss_tables.h"
#include "espalier/codec/test_damage.h"
#include "espalier/codec/test_inputs.h"
#include "espalier/codec/test_targets.h"

namespace espalier::codec {
namespace {

std::vector<float> named_input(std::string_view name, size_t n) {
  std::vector<float> x = gaussian(n, 17);
  for (size_t i = 0; i < n; ++i) {
    if (name == "lognormal") x[i] = std::exp(x[i]);
    if (name == "spiky") x[i] = i % 4096 == 7 ? 1000.0f : x[i] * 0.01f;
    if (name == "two-hot") x[i] = i % 2048 == 5 || i % 2048 == 1100 ? 1.0f : 0.0f;
    if (name == "geometric")
      x[i] = static_cast<float>(std::pow(0.99, static_cast<double>(i % 2048)));
  }
  return x;
}

std::vector<float> round_trip(const DitheredCode& code, std::span<const float> x, size_t block,
                              Key key, size_t* size = nullptr) {
  Bytes bytes;
  code.encode(x, block, key, bytes);
  EXPECT_LE(bytes.size(), DitheredCode::max_encoded_bytes(x.size(), block));
  if (size != nullptr) *size = bytes.size();
  std::vector<float> out(x.size(), NAN);
  code.decode(bytes, block, key, out);
  return out;
}

// The dither word of coordinate i.
uint32_t dither_word(Key key, size_t i) {
  return Stream(key, 4 * (16 * (i / 64) + i % 16) + i % 64 / 16).u32();
}

TEST(Dithered, WordsAreTheKeysStream) {
  for_every_target([] {
    std::vector<uint32_t> words(1000 + detail::kDitherSlack);
    for (const uint64_t first : {uint64_t{0}, uint64_t{77}, (uint64_t{1} << 28) - 5}) {
      detail::dither_words(0x123456789ABCDEF0u, first, words.data(), 1000);
      for (size_t i = 0; i < 1000; ++i) {
        ASSERT_EQ(words[i], dither_word(Key(0x123456789ABCDEF0u), 64 * first + i)) << i;
      }
    }
  });
}

// The formulas of the header, one coordinate at a time.
TEST(Dithered, DecodesToTheDefinition) {
  for (const double bits : {0.5, 1.0, 2.0, 4.0, 7.0, 8.0}) {
    const DitheredCode code(bits);
    const auto x = named_input("spiky", 9000);
    const auto decoded = round_trip(code, x, 4096, Key(5));
    for (size_t begin = 0; begin < x.size(); begin += 4096) {
      const auto part = std::span(x).subspan(begin, std::min<size_t>(4096, x.size() - begin));
      const float scale = decode_scale(
          encode_scale(std::sqrt(sum_of_squares(part) / static_cast<double>(part.size()))));
      const auto inverse = static_cast<float>(1 / (double{scale} * code.step()));
      const auto width = static_cast<float>(double{scale} * code.step());
      for (size_t i = 0; i < part.size(); ++i) {
        const float u =
            (static_cast<float>(static_cast<int32_t>(dither_word(Key(5), begin + i)) >> 8) + 0.5f) *
            0x1p-24f;
        const float product = part[i] * inverse;
        const float k = std::nearbyint(product + u);
        ASSERT_EQ(decoded[begin + i], (k - u) * width) << bits << " bits, coordinate " << begin + i;
      }
    }
  }
}

TEST(Dithered, SameBytesOnEveryTarget) {
  const auto x = named_input("lognormal", 50007);
  for (const double bits : {0.25, 2.0, 7.5}) {
    const DitheredCode code(bits);
    expect_same_on_every_target(x.size(), [&](Bytes& bytes, std::span<float> out) {
      code.encode(x, 1024, Key(8), bytes);
      code.decode(bytes, 1024, Key(8), out);
    });
  }
}

TEST(Dithered, ErrorIsStepSquaredOverTwelveForEveryInput) {
  for (const std::string_view name : {"normal", "lognormal", "spiky", "two-hot", "geometric"}) {
    const auto x = named_input(name, 1 << 16);
    const double norm = sum_of_squares(x);
    for (const double bits : {1.0, 2.0, 3.0, 4.0, 8.0}) {
      const DitheredCode code(bits);
      double error = 0;
      constexpr int kTrials = 4;
      for (int trial = 0; trial < kTrials; ++trial) {
        const auto y = round_trip(code, x, 2048, Key(static_cast<uint64_t>(trial)));
        for (size_t i = 0; i < x.size(); ++i)
          error += (double{y[i]} - x[i]) * (double{y[i]} - x[i]);
      }
      EXPECT_NEAR(error / kTrials / norm / code.expected_error(), 1, 0.01)
          << name << " at " << bits;
    }
  }
}

TEST(Dithered, RateIsNominalOnGaussianCoordinates) {
  const auto x = gaussian(1 << 19, 3);
  for (const double bits : {0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 6.5, 7.0, 8.0}) {
    size_t size = 0;
    round_trip(DitheredCode(bits), x, 4096, Key(1), &size);
    const double measured = 8.0 * static_cast<double>(size) / static_cast<double>(x.size());
    EXPECT_NEAR(measured, bits, 0.014) << bits;  // .01 and the scales, 16/4096
    RecordProperty("rate_at_" + std::to_string(bits), std::to_string(measured));
  }
}

TEST(Dithered, Unbiased) {
  const auto x = named_input("two-hot", 2048);
  const DitheredCode code(1);
  constexpr int kTrials = 2000;
  std::vector<double> mean(x.size());
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto y = round_trip(code, x, 2048, Key(static_cast<uint64_t>(trial) + 100));
    for (size_t i = 0; i < x.size(); ++i) mean[i] += y[i];
  }
  double bias = 0;
  for (size_t i = 0; i < x.size(); ++i) bias += std::pow(mean[i] / kTrials - x[i], 2);
  // Of an unbiased code: expected error / trials, up to its own fluctuation.
  EXPECT_NEAR(bias / sum_of_squares(x) / (code.expected_error() / kTrials), 1, 0.15);
}

TEST(Dithered, SizesAndSpecialInputs) {
  const DitheredCode code(2);
  for (const size_t n : std::vector<size_t>{0, 1, 7, 1023, 1024, 4096, 100003}) {
    const auto x = gaussian(n, n);
    const auto y = round_trip(code, x, 1024, Key(2));
    for (size_t i = 0; i < n; ++i) ASSERT_LT(std::abs(y[i] - x[i]), 4) << i;
  }
  size_t size = 0;
  EXPECT_EQ(round_trip(code, std::vector<float>(5000), 1024, Key(1), &size),
            std::vector<float>(5000));
  EXPECT_EQ(size, 10u);
  std::vector<float> half(4096);
  half[1] = 3;
  half[3000] = 1;  // blocks 1 and 3 are zero
  const auto y = round_trip(code, half, 1024, Key(1), &size);
  EXPECT_NEAR(y[1], 3, 0.2);
  EXPECT_EQ(y[1500], 0);
  for (const float value : {1e-45f, 1e-30f, 1e30f, 3e38f}) {
    for (const float v : round_trip(code, std::vector<float>(100, value), 128, Key(1))) {
      ASSERT_LE(std::abs(v - value), std::max(value, 1e-36f));
    }
  }
  Bytes bytes;
  EXPECT_THROW(code.encode(std::vector<float>(50, NAN), 64, Key(1), bytes), Error);
  EXPECT_THROW(code.encode(std::vector<float>(50, INFINITY), 64, Key(1), bytes), Error);
}

TEST(Dithered, DamageIsAnErrorOrFiniteValues) {
  for (const double bits : {1.0, 7.0}) {
    const DitheredCode code(bits);
    const auto x = named_input("spiky", 3000);
    Bytes bytes;
    code.encode(x, 1024, Key(4), bytes);
    expect_errors_or_finite_values(bytes, x.size(),
                                   [&](auto in, auto out) { code.decode(in, 1024, Key(4), out); });
    bytes.push_back(0);
    std::vector<float> out(x.size());
    EXPECT_THROW(code.decode(bytes, 1024, Key(4), out), Error);
  }
}

// Tables are computed at start-up: every compiler and machine must come to the same ones.
TEST(Dithered, BytesAreTheRecordedOnes) {
  const auto x = portable_input(20000);
  const std::vector<std::pair<double, uint64_t>> recorded = {
      {0.5, 11341825926510865311u}, {2.0, 8747402189023988063u}, {7.0, 15415494352562006646u}};
  for (const auto& [bits, hash] : recorded) {
    Bytes bytes;
    DitheredCode(bits).encode(x, 4096, Key(7), bytes);
    EXPECT_EQ(fnv1a(bytes), hash) << bits;
  }
}

}  // namespace
}  // namespace espalier::codec

#include "espalier/codec/eden.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/base/test_digest.h"
#include "espalier/codec/entropy_scale.h"
#include "espalier/codec/gauss_tables.h"
#include "espalier/codec/test_damage.h"
#include "espalier/codec/test_inputs.h"
#include "espalier/codec/test_targets.h"

namespace espalier::codec {
namespace {

std::vector<float> round_trip(const EdenCode& code, std::span<const float> x, size_t block) {
  Bytes bytes;
  code.encode(x, block, bytes);
  EXPECT_EQ(bytes.size(), code.encoded_bytes(x.size(), block));
  std::vector<float> out(x.size(), NAN);
  code.decode(bytes, block, out);
  return out;
}

TEST(EdenPack, RoundTripAndDensity) {
  Stream stream{Key(1)};
  for (size_t levels = 2; levels <= 256; ++levels) {
    const IndexPacking packing(levels);
    EXPECT_LT(packing.bits_per_index(), std::log2(static_cast<double>(levels)) * 1.03) << levels;
    for (const size_t n : std::vector<size_t>{0, 1, 7, 8, 33, 1000}) {
      std::vector<uint8_t> indices(n), decoded(n);
      for (uint8_t& index : indices) index = static_cast<uint8_t>(stream.below(levels));
      Bytes bytes(packing.bytes(n));
      packing.pack(indices, bytes);
      ASSERT_TRUE(packing.unpack(bytes, decoded)) << levels << ", " << n;
      ASSERT_EQ(decoded, indices) << levels << ", " << n;
    }
  }
  const IndexPacking three(3);
  std::vector<uint8_t> indices(5);
  EXPECT_TRUE(three.unpack(Bytes{242}, indices));  // 3^5 − 1
  EXPECT_FALSE(three.unpack(Bytes{243}, indices));
}

TEST(EdenPack, PowersOfTwoAreLowBitsFirst) {
  const std::vector<uint8_t> indices = {1, 2, 3, 4, 5, 6, 7, 0, 7};
  Bytes bytes(4);
  IndexPacking(8).pack(indices, bytes);
  uint32_t expected = 0;
  for (unsigned i = 0; i < 8; ++i) expected |= uint32_t{indices[i]} << (3 * i);
  EXPECT_EQ(bytes, (Bytes{static_cast<uint8_t>(expected), static_cast<uint8_t>(expected >> 8),
                          static_cast<uint8_t>(expected >> 16), 7}));
}

// The definition, one coordinate at a time.
TEST(Eden, DecodesToTheDefinition) {
  for (const double bits : {1.0, 1.585, 2.0, 3.0, 4.0, 5.3, 8.0}) {
    for (const EdenScale kind : {EdenScale::kUnbiased, EdenScale::kBiased}) {
      const EdenCode code(bits, kind);
      const LloydMax quantizer = lloyd_max(code.levels());
      const auto x = gaussian(3000, 7);
      const auto decoded = round_trip(code, x, 1024);
      for (size_t begin = 0; begin < x.size(); begin += 1024) {
        const auto part = std::span(x).subspan(begin, std::min<size_t>(1024, x.size() - begin));
        const double square = sum_of_squares(part);
        const auto factor =
            static_cast<float>(1 / std::sqrt(square / static_cast<double>(part.size())));
        std::vector<float> q;
        for (const float v : part) {
          size_t index = 0;
          while (index + 1 < code.levels() &&
                 v * factor >= static_cast<float>(quantizer.thresholds[index]))
            ++index;
          q.push_back(static_cast<float>(quantizer.centroids[index]));
        }
        const double s =
            kind == EdenScale::kUnbiased ? square / dot(part, q) : dot(part, q) / sum_of_squares(q);
        for (size_t i = 0; i < part.size(); ++i) {
          ASSERT_EQ(decoded[begin + i], q[i] * decode_scale(encode_scale(s)))
              << bits << " bits, " << begin + i;
        }
      }
    }
  }
}

TEST(Eden, ErrorsOfTheSpecification) {
  const auto x = gaussian(1 << 19, 11);
  const double norm = sum_of_squares(x);
  struct Row {
    double bits, unbiased, biased;
  };
  for (const Row row : {Row{1, .5708, .3634},
                        {2, .13312, .11748},
                        {3, .035784, .034548},
                        {4, .0095921, .0095010},
                        {8, 4.12e-5, 4.12e-5}}) {
    for (const size_t block : std::vector<size_t>{1024, 4096}) {
      const EdenCode unbiased(row.bits, EdenScale::kUnbiased), biased(row.bits, EdenScale::kBiased);
      EXPECT_NEAR(squared_error(x, round_trip(unbiased, x, block)) / norm / row.unbiased, 1, 0.02)
          << row.bits;
      EXPECT_NEAR(squared_error(x, round_trip(biased, x, block)) / norm / row.biased, 1, 0.02)
          << row.bits;
      EXPECT_NEAR(unbiased.expected_error() / row.unbiased, 1, 0.003);
      EXPECT_NEAR(biased.expected_error() / row.biased, 1, 0.003);
    }
  }
  // Fractional rates lie between their neighbours, and take about log2 L bits.
  double previous = 1;
  for (const double bits : {1.0, 1.585, 2.0, 2.32, 2.585, 2.81, 3.0, 3.7, 4.5, 6.2}) {
    const EdenCode code(bits, EdenScale::kBiased);
    const double e = squared_error(x, round_trip(code, x, 4096)) / norm;
    EXPECT_LT(e, previous);
    EXPECT_NEAR(e / code.expected_error(), 1, 0.02);
    previous = e;
    const double rate = 8.0 * static_cast<double>(code.encoded_bytes(x.size(), 4096)) /
                        static_cast<double>(x.size());
    EXPECT_NEAR(rate, code.nominal_bits(), 0.011 * code.nominal_bits() + 0.005);
  }
}

TEST(Eden, SameBytesOnEveryTarget) {
  const auto x = gaussian(20011, 5);
  for (const double bits : {1.0, 4.0, 5.0, 7.9}) {
    const EdenCode code(bits, EdenScale::kUnbiased);
    expect_same_on_every_target(x.size(), [&](Bytes& bytes, std::span<float> out) {
      code.encode(x, 4096, bytes);
      code.decode(bytes, 4096, out);
    });
  }
}

// Signs, then the orthonormal Walsh–Hadamard transform; and back.
void rotate(std::vector<float>& x, Key key, bool inverse) {
  const auto signs = [&] {
    Stream stream(key);
    for (float& v : x) v *= (stream.u32() & 1) != 0 ? -1.0f : 1.0f;
  };
  if (!inverse) signs();
  for (size_t half = 1; half < x.size(); half *= 2) {
    for (size_t i = 0; i < x.size(); ++i) {
      if ((i & half) != 0) continue;
      const float a = x[i], b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
  }
  for (float& v : x) v /= std::sqrt(static_cast<float>(x.size()));
  if (inverse) signs();
}

// Relative squared bias of the mean over `trials` keys, its expectation without bias taken off.
double relative_bias(const EdenCode& code, const std::vector<float>& x, uint64_t rotations) {
  constexpr int kTrials = 4000;
  std::vector<double> mean(x.size());
  double total_error = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    const Key key = Key(99).child(static_cast<uint64_t>(trial));
    std::vector<float> y = x;
    for (uint64_t r = 0; r < rotations; ++r) rotate(y, key.child(r), false);
    y = round_trip(code, y, x.size());
    for (uint64_t r = rotations; r-- > 0;) rotate(y, key.child(r), true);
    total_error += squared_error(x, y);
    for (size_t i = 0; i < x.size(); ++i) mean[i] += y[i];
  }
  double bias = 0;
  for (size_t i = 0; i < x.size(); ++i) bias += std::pow(mean[i] / kTrials - x[i], 2);
  return (bias - total_error / kTrials / kTrials) / sum_of_squares(x);
}

TEST(Eden, TwoRotationsMakeItUnbiasedWhereOneDoesNot) {
  std::vector<float> two_hot(256);
  two_hot[3] = 1;
  two_hot[77] = 0.5f;
  const EdenCode code(1, EdenScale::kUnbiased);
  EXPECT_GT(relative_bias(code, two_hot, 1), 0.02);
  EXPECT_LT(relative_bias(code, two_hot, 2), 0.001);
  EXPECT_LT(relative_bias(EdenCode(2, EdenScale::kUnbiased), two_hot, 2), 0.001);
}

TEST(Eden, SizesAndSpecialInputs) {
  for (const double bits : {1.0, 1.585, 4.0, 8.0}) {
    const EdenCode code(bits, EdenScale::kUnbiased);
    for (const size_t n : std::vector<size_t>{0, 1, 7, 1023, 1024, 4096, 100003}) {
      const auto x = gaussian(n, n + 1);
      const auto y = round_trip(code, x, 1024);
      EXPECT_LE(squared_error(x, y), 1.3 * sum_of_squares(x)) << n;
    }
    EXPECT_EQ(round_trip(code, std::vector<float>(3000), 1000), std::vector<float>(3000));
    for (const float value : {1e-45f, 1e-30f, 1e30f, 3e38f}) {
      for (const float v : round_trip(code, std::vector<float>(100, value), 64)) {
        ASSERT_NEAR(v / value, value < 1e-36f ? 0 : value > 1e37f ? 0.004 : 1, 0.02) << value;
      }
    }
    Bytes bytes;
    EXPECT_THROW(code.encode(std::vector<float>(50, NAN), 64, bytes), Error);
    EXPECT_THROW(code.encode(std::vector<float>(50, -INFINITY), 64, bytes), Error);
  }
}

TEST(Eden, DamageIsAnErrorOrFiniteValues) {
  for (const double bits : {1.0, 1.585, 3.0}) {
    const EdenCode code(bits, EdenScale::kUnbiased);
    const auto x = gaussian(1500, 3);
    Bytes bytes;
    code.encode(x, 1024, bytes);
    expect_errors_or_finite_values(bytes, x.size(),
                                   [&](auto in, auto out) { code.decode(in, 1024, out); });
  }
}

// Tables are computed at start-up: every compiler and machine must come to the same ones.
TEST(Eden, BytesAreTheRecordedOnes) {
  const auto x = portable_input(20000);
  const std::vector<std::pair<double, uint64_t>> recorded = {{1.0, 11617638499450653893u},
                                                             {1.585, 12005567126159217428u},
                                                             {4.0, 1943166765183607558u},
                                                             {8.0, 13220890504649298589u}};
  for (const auto& [bits, hash] : recorded) {
    Bytes bytes;
    EdenCode(bits, EdenScale::kUnbiased).encode(x, 4096, bytes);
    EXPECT_EQ(fnv1a(bytes), hash) << bits;
  }
}

}  // namespace
}  // namespace espalier::codec

#include "espalier/codec/uniform.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "espalier/codec/test_inputs.h"
#include "espalier/codec/test_targets.h"

namespace espalier::codec {
namespace {

// The definition of the codes and of their packing, one code and one bit at a time.
std::vector<uint8_t> reference_quantize(const std::vector<float>& x, Range range, int bits,
                                        uint64_t key) {
  const size_t n = x.size(), whole = n / 512 * 512;
  std::vector<uint8_t> out(packed_bytes(n, bits), 0);
  const float width = range.high - range.low, levels = static_cast<float>((1 << bits) - 1);
  const float lift = width < 0x1p-100f ? 0x1p60f : 1.0f;
  const float inverse = width > 0 ? levels / (width * lift) : 0;
  const auto q = static_cast<size_t>(bits);
  for (size_t i = 0; i < n; ++i) {
    const float v = ((x[i] - range.low) * lift) * inverse;
    const float floor = std::floor(v);
    const size_t line = i / 128, half = i % 128 / 64, k = i % 64 / 16, j = i % 16;
    uint32_t c[4] = {static_cast<uint32_t>(16 * line + j), 0, 0x524E444Eu, 0};
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 7; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c[0], p1 = uint64_t{0xCD9E8D57} * c[2];
      const uint32_t next[4] = {
          static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
          static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
      std::copy(next, next + 4, c);
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    const uint32_t random = half == 0 ? c[k] & 0xffff : c[k] >> 16;
    const int fraction_bits = std::min(16, 23 - bits);
    const double chance = std::nearbyint(std::ldexp(static_cast<double>(v - floor), fraction_bits));
    const bool up = (random >> (16 - fraction_bits)) + chance >= std::ldexp(1.0, fraction_bits);
    const auto code = static_cast<uint32_t>(std::min(floor + (up ? 1.0f : 0.0f), levels));
    for (size_t b = 0; b < q; ++b) {
      size_t position = whole * q + (i - whole) * q + b;  // of the bit in the output
      if (i < whole) {
        const size_t bit = (i % 512) / 16 * q + b;
        position = i / 512 * 512 * q + (bit / 32 * 16 + j) * 32 + bit % 32;
      }
      out[position / 8] |= static_cast<uint8_t>(((code >> b) & 1) << (position % 8));
    }
  }
  return out;
}

TEST(Uniform, EveryTargetWritesTheBytesOfTheDefinition) {
  for (size_t n : {0u, 1u, 7u, 130u, 512u, 1023u, 4096u, 5003u}) {
    const auto x = gaussian(n, n);
    const Range range = range_of(x);
    for (int bits = 1; bits <= 16; ++bits) {
      const auto expected = reference_quantize(x, range, bits, 0x123456789abcdefu);
      std::vector<float> first;
      for_every_target([&] {
        std::vector<uint8_t> out(packed_bytes(n, bits), 0xaa);
        quantize_uniform(x, range, bits, Key(0x123456789abcdefu), out.data());
        ASSERT_EQ(out, expected) << n << " values, " << bits << " bits";
        std::vector<float> y(n);
        dequantize_uniform(out.data(), range, bits, y);
        if (first.empty()) first = y;
        ASSERT_EQ(y, first);
        const float step = (range.high - range.low) / static_cast<float>((1 << bits) - 1);
        for (size_t i = 0; i < n; ++i) ASSERT_LE(std::abs(y[i] - x[i]), step * 1.001f + 1e-6f);
      });
    }
  }
}

TEST(Uniform, RangeIsTheSameOnEveryTargetEvenForZeros) {
  std::vector<float> x = gaussian(1001, 1001);
  x[77] = -9, x[1000] = 11;
  for_every_target([&] {
    EXPECT_EQ(range_of(x).low, -9);
    EXPECT_EQ(range_of(x).high, 11);
    std::vector<float> zeros(100, 0.0f);
    for (size_t i = 0; i < 100; i += 3) zeros[i] = -0.0f;
    EXPECT_FALSE(std::signbit(range_of(zeros).low));
    EXPECT_FALSE(std::signbit(range_of(zeros).high));
  });
}

TEST(Uniform, DenormalRangesKeepTheirLevels) {
  std::vector<float> x(600);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) * 0x1p-149f;
  std::vector<uint8_t> out(packed_bytes(600, 16));
  quantize_uniform(x, range_of(x), 16, Key(1), out.data());
  std::vector<float> y(600);
  dequantize_uniform(out.data(), range_of(x), 16, y);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], x[i], 0x1p-149);
}

}  // namespace
}  // namespace espalier::codec

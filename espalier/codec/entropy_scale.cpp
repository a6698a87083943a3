#include "espalier/codec/entropy_scale.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "espalier/base/error.h"

namespace espalier::codec {
namespace {

constexpr uint32_t kCodeShift = 15;  // 8 exponent and 8 mantissa bits remain
constexpr uint32_t kSmallestCode = std::bit_cast<uint32_t>(0x1p-120f) >> kCodeShift;
constexpr uint32_t kLargestCode = std::bit_cast<uint32_t>(0x1p120f) >> kCodeShift;
constexpr size_t kStripes = 16;

// Stripe j holds the terms of the elements ≡ j mod 16; compilers may use any vector width and get
// the same sums.
template <class Term>
double striped_sum(size_t n, Term term) {
  std::array<double, kStripes> sums{};
  size_t i = 0;
  for (; i + kStripes <= n; i += kStripes) {
    for (size_t j = 0; j < kStripes; ++j) sums[j] += term(i + j);
  }
  for (size_t j = 0; i + j < n; ++j) sums[j] += term(i + j);
  for (size_t width = kStripes / 2; width > 0; width /= 2) {
    for (size_t j = 0; j < width; ++j) sums[j] += sums[j + width];
  }
  return sums[0];
}

}  // namespace

uint16_t encode_scale(double scale) {
  ESPALIER_CHECK(scale >= 0, scale);
  if (scale < 0x1p-120) return 0;
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(std::min(scale, 0x1p120)));
  return static_cast<uint16_t>((bits + (1u << (kCodeShift - 1))) >> kCodeShift);
}

float decode_scale(uint16_t code) {
  if (code == 0) return 0;
  if (code < kSmallestCode || code > kLargestCode) {
    fail("codec/scale", "expected a block scale of 0 or in [2^-120, 2^120], got code ", code,
         "; the message is damaged");
  }
  return std::bit_cast<float>(uint32_t{code} << kCodeShift);
}

double sum_of_squares(std::span<const float> x) {
  return striped_sum(x.size(), [&](size_t i) { return double{x[i]} * x[i]; });
}

double dot(std::span<const float> x, std::span<const float> y) {
  ESPALIER_CHECK(x.size() == y.size(), x.size(), " and ", y.size());
  return striped_sum(x.size(), [&](size_t i) { return double{x[i]} * y[i]; });
}

}  // namespace espalier::codec

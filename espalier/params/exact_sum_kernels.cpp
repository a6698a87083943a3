#include "espalier/params/exact_sum_kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "espalier/base/simd.h"

namespace espalier::exact_sum {
namespace {

// For products below 2^51, adding 1.5·2^52 leaves the integer in the low bits of the pattern, which
// vectorizes on every machine.
constexpr double kMagic = 6755399441055744.0;
constexpr auto kMagicBits = std::bit_cast<int64_t>(kMagic);

ESPALIER_KERNEL void add_small(const float* __restrict x, double factor, int64_t* __restrict sums,
                               size_t count) {
  for (size_t i = 0; i < count; ++i) {
    sums[i] += std::bit_cast<int64_t>(static_cast<double>(x[i]) * factor + kMagic) - kMagicBits;
  }
}

void add_large(const float* __restrict x, double factor, int64_t* __restrict sums, size_t count) {
  for (size_t i = 0; i < count; ++i) sums[i] += std::llrint(static_cast<double>(x[i]) * factor);
}

ESPALIER_KERNEL void round_small(const float* __restrict x, double factor, int64_t* __restrict out,
                                 size_t count) {
  for (size_t i = 0; i < count; ++i)
    out[i] = std::bit_cast<int64_t>(static_cast<double>(x[i]) * factor + kMagic) - kMagicBits;
}

// For non-negative floats the order of bit patterns is the order of values, with infinity and NaN
// above everything.
ESPALIER_KERNEL float largest_magnitude_of(const float* x, size_t count) {
  int32_t largest = 0;
  for (size_t i = 0; i < count; ++i)
    largest = std::max(largest, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  return std::bit_cast<float>(largest);
}
}  // namespace

void add_scaled(const float* x, double factor, bool small, int64_t* sums, size_t count) {
  (small ? add_small : add_large)(x, factor, sums, count);
}

// What the magic number leaves in the sums is taken away together, modulo 2^64.
ESPALIER_KERNEL void add_four(const float* __restrict a, const float* __restrict b,
                              const float* __restrict c, const float* __restrict d,
                              const double* factors, int64_t* __restrict sums, size_t count) {
  constexpr uint64_t kFourBits = 4 * std::bit_cast<uint64_t>(kMagic);
  const double fa = factors[0], fb = factors[1], fc = factors[2], fd = factors[3];
  for (size_t i = 0; i < count; ++i) {
    const auto first = std::bit_cast<uint64_t>(static_cast<double>(a[i]) * fa + kMagic) +
                       std::bit_cast<uint64_t>(static_cast<double>(b[i]) * fb + kMagic);
    const auto second = std::bit_cast<uint64_t>(static_cast<double>(c[i]) * fc + kMagic) +
                        std::bit_cast<uint64_t>(static_cast<double>(d[i]) * fd + kMagic);
    sums[i] = static_cast<int64_t>(static_cast<uint64_t>(sums[i]) + (first + second - kFourBits));
  }
}

// In two passes, because only the first can be vectorized.
void add_columns(const float* x, double factor, bool small, const uint32_t* columns, int64_t* sums,
                 size_t count) {
  constexpr size_t kChunk = 512;
  int64_t rounded[kChunk];
  for (size_t begin = 0; begin < count; begin += kChunk) {
    const size_t n = std::min(kChunk, count - begin);
    if (small) {
      round_small(x + begin, factor, rounded, n);
    } else {
      for (size_t j = 0; j < n; ++j)
        rounded[j] = std::llrint(static_cast<double>(x[begin + j]) * factor);
    }
    for (size_t j = 0; j < n; ++j) sums[columns[begin + j]] += rounded[j];
  }
}

void add_runs(const float* row, double factor, bool small,
              const std::vector<CoordinateMap::Run>& runs, int64_t* sums, size_t first,
              size_t last) {
  const auto ends_before = [](const CoordinateMap::Run& run, size_t column) {
    return run.small + run.count <= column;
  };
  auto run = std::lower_bound(runs.begin(), runs.end(), first, ends_before);
  for (size_t j = first; j < last; ++run) {
    const size_t end = std::min<size_t>(run->small + run->count, last);
    add_scaled(row + j, factor, small, sums + run->full + (j - run->small), end - j);
    j = end;
  }
}

// The quotient of the negated sum is +0 where the sum is 0.
ESPALIER_KERNEL void divide(const int64_t* __restrict sums, double divisor, float* __restrict out,
                            size_t count) {
  for (size_t i = 0; i < count; ++i)
    out[i] = static_cast<float>(-(static_cast<double>(-sums[i]) / divisor));
}

ESPALIER_KERNEL void divide_each(const int64_t* __restrict sums, const int64_t* __restrict divisors,
                                 float* __restrict out, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const double quotient = static_cast<double>(-sums[i]) / static_cast<double>(divisors[i]);
    out[i] = divisors[i] == 0 ? -0.0f : static_cast<float>(-quotient);
  }
}

float largest_magnitude(std::span<const float> x) {
  return largest_magnitude_of(x.data(), x.size());
}

}  // namespace espalier::exact_sum

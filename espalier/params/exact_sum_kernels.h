#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "espalier/params/coordinate_map.h"

// The loops of ExactAccumulator, over plain arrays that do not overlap. Any thread; who calls holds
// whatever guards the sums.
namespace espalier::exact_sum {

// sums[i] += x[i]·factor, each product rounded to the nearest integer, ties to even. `small`: all
// products are below 2^51 in magnitude, which is vectorized; without it below 2^63.
void add_scaled(const float* x, double factor, bool small, int64_t* sums, size_t count);
// The same of four small ones at once: each sum is loaded and stored once for them.
void add_four(const float* a, const float* b, const float* c, const float* d, const double* factors,
              int64_t* sums, size_t count);
// sums[columns[j]] += x[j]·factor, rounded as above.
void add_columns(const float* x, double factor, bool small, const uint32_t* columns, int64_t* sums,
                 size_t count);
// The small columns [first, last) of a row whose columns are `runs`.
void add_runs(const float* row, double factor, bool small,
              const std::vector<CoordinateMap::Run>& runs, int64_t* sums, size_t first,
              size_t last);

// out[i] = sums[i] / divisor, and −0 for 0; −0 too where divisors[i] is 0.
void divide(const int64_t* sums, double divisor, float* out, size_t count);
void divide_each(const int64_t* sums, const int64_t* divisors, float* out, size_t count);

// The largest |x[i]|; NaN when one is, 0 for none.
float largest_magnitude(std::span<const float> x);

}  // namespace espalier::exact_sum

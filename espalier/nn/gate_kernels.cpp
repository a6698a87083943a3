#include "espalier/nn/gate_kernels.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "espalier/nn/lanes.h"

namespace espalier::nn {
namespace {

// For S samples, the outputs of W vectors at `o`.
template <class Lanes, size_t S, size_t W>
ESPALIER_INLINE void gate_tile(const GateShape& shape, const float* s, const float* transposed,
                               const float* bias, size_t o, float* g) {
  Lanes sum[S][W];
  for (size_t n = 0; n < S; ++n) {
    for (size_t k = 0; k < W; ++k) load(bias + o + k * kLanes, sum[n][k]);
  }
  for (size_t i = 0; i < shape.in; ++i) {
    Lanes row[W];
    for (size_t k = 0; k < W; ++k) load(transposed + i * shape.out + o + k * kLanes, row[k]);
    for (size_t n = 0; n < S; ++n) {
      const Lanes value = broadcast<Lanes>(s[n * shape.in + i]);
      for (size_t k = 0; k < W; ++k) sum[n][k] += value * row[k];
    }
  }
  for (size_t n = 0; n < S; ++n) {
    for (size_t k = 0; k < W; ++k) {
      const Lanes zero = {};
      store(select_greater(sum[n][k], zero, sum[n][k], zero), g + n * shape.out + o + k * kLanes);
    }
  }
}

template <class Lanes, size_t S>
ESPALIER_INLINE void gate_samples(const GateShape& shape, const float* s, const float* transposed,
                                  const float* bias, float* g) {
  size_t o = 0;
  for (; o + 2 * kLanes <= shape.out; o += 2 * kLanes)
    gate_tile<Lanes, S, 2>(shape, s, transposed, bias, o, g);
  for (; o + kLanes <= shape.out; o += kLanes)
    gate_tile<Lanes, S, 1>(shape, s, transposed, bias, o, g);
  for (; o < shape.out; ++o) {
    for (size_t n = 0; n < S; ++n) {
      float sum = bias[o];
      for (size_t i = 0; i < shape.in; ++i)
        sum += s[n * shape.in + i] * transposed[i * shape.out + o];
      g[n * shape.out + o] = sum > 0 ? sum : 0.0f;
    }
  }
}

}  // namespace

ESPALIER_KERNEL void transpose(const float* from, size_t rows, size_t columns, float* to) {
  constexpr size_t kBlock = 16;
  for (size_t r = 0; r < rows; r += kBlock) {
    for (size_t c = 0; c < columns; ++c) {
      for (size_t i = r; i < std::min(rows, r + kBlock); ++i)
        to[c * rows + i] = from[i * columns + c];
    }
  }
}

void gate_values(const GateShape& shape, const float* s, const float* transposed, const float* bias,
                 float* g) {
  with_lanes([&]<class Lanes>() __attribute__((always_inline)) {
    size_t n = 0;
    for (; n + 4 <= shape.batch; n += 4)
      gate_samples<Lanes, 4>(shape, s + n * shape.in, transposed, bias, g + n * shape.out);
    for (; n < shape.batch; ++n)
      gate_samples<Lanes, 1>(shape, s + n * shape.in, transposed, bias, g + n * shape.out);
  });
}

void sigmoid(float* x, size_t size) {
  for (size_t i = 0; i < size; ++i) x[i] = 1 / (1 + std::exp(-x[i]));
}

void keep_largest(float* g, size_t size, size_t kept, float* work) {
  if (kept >= size) return;
  std::copy_n(g, size, work);
  std::nth_element(work, work + kept - 1, work + size, std::greater<>());
  const float least = work[kept - 1];
  size_t larger = 0;
  for (size_t i = 0; i < size; ++i) larger += g[i] > least ? 1U : 0U;
  size_t ties = kept - larger;
  for (size_t i = 0; i < size; ++i) {
    if (g[i] > least) continue;
    if (g[i] == least && ties > 0) {
      --ties;
    } else {
      g[i] = 0;
    }
  }
}

}  // namespace espalier::nn

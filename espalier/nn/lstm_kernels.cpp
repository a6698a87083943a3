#include "espalier/nn/lstm_kernels.h"

#include <bit>
#include <cstdint>

#include "espalier/base/simd.h"

namespace espalier::nn {
namespace {

// exp(x) − 1 for −87 ≤ x ≤ 87, accurate near 0 too: x = n·log 2 + r with |r| ≤ log(2)/2, and the
// Taylor series of exp(r) − 1, whose rest is below 2⁻²⁵ of r there.
ESPALIER_INLINE float exp_minus_one(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5·2²³: adding it leaves no room for a fraction
  const float rounded = x * 1.44269504088896341f + kRound;
  const float n = rounded - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // log 2 in two parts
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * (r * r) + r;
  // n stands in the lowest bits of `rounded`.
  const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(rounded) << 23) + 0x3f800000U);
  return scale * p + (scale - 1);
}

// Comparisons are such that a NaN passes.
ESPALIER_INLINE float clamp(float x, float limit) {
  const float below = x > limit ? limit : x;
  return below < -limit ? -limit : below;
}

ESPALIER_INLINE float sigmoid(float x) { return 1 / (2 + exp_minus_one(clamp(-x, 87))); }

ESPALIER_INLINE float hyperbolic_tangent(float x) {
  const float e = exp_minus_one(clamp(2 * x, 20));  // beyond, the result rounds to ±1
  return e / (e + 2);
}

// The gates of one sample as four arrays that the compiler knows to be distinct.
ESPALIER_INLINE void step_row(size_t units, const float* __restrict bias,
                              const float* __restrict before, float* __restrict i,
                              float* __restrict f, float* __restrict g, float* __restrict o,
                              float* __restrict cell, float* __restrict hidden) {
  for (size_t u = 0; u < units; ++u) {
    const float in = sigmoid(i[u] + bias[u]), keep = sigmoid(f[u] + bias[units + u]),
                candidate = hyperbolic_tangent(g[u] + bias[2 * units + u]),
                out = sigmoid(o[u] + bias[3 * units + u]);
    const float c = keep * before[u] + in * candidate;
    i[u] = in;
    f[u] = keep;
    g[u] = candidate;
    o[u] = out;
    cell[u] = c;
    hidden[u] = out * hyperbolic_tangent(c);
  }
}

ESPALIER_INLINE void step_backward_row(size_t units, const float* __restrict dhidden,
                                       const float* __restrict before, const float* __restrict cell,
                                       float* __restrict dcell, float* __restrict i,
                                       float* __restrict f, float* __restrict g,
                                       float* __restrict o) {
  for (size_t u = 0; u < units; ++u) {
    const float t = hyperbolic_tangent(cell[u]), dh = dhidden[u];
    const float in = i[u], keep = f[u], candidate = g[u], out = o[u];
    const float d = dcell[u] + dh * out * (1 - t * t);
    dcell[u] = d * keep;
    i[u] = d * candidate * in * (1 - in);
    f[u] = d * before[u] * keep * (1 - keep);
    g[u] = d * in * (1 - candidate * candidate);
    o[u] = dh * t * out * (1 - out);
  }
}

}  // namespace

ESPALIER_KERNEL void lstm_step(size_t rows, size_t units, const float* bias, const float* before,
                               float* gates, float* cell, float* hidden) {
  for (size_t r = 0; r < rows; ++r) {
    float* row = gates + r * 4 * units;
    step_row(units, bias, before + r * units, row, row + units, row + 2 * units, row + 3 * units,
             cell + r * units, hidden + r * units);
  }
}

ESPALIER_KERNEL void lstm_step_backward(size_t rows, size_t units, const float* dhidden,
                                        const float* before, const float* cell, float* dcell,
                                        float* gates) {
  for (size_t r = 0; r < rows; ++r) {
    float* row = gates + r * 4 * units;
    step_backward_row(units, dhidden + r * units, before + r * units, cell + r * units,
                      dcell + r * units, row, row + units, row + 2 * units, row + 3 * units);
  }
}

ESPALIER_KERNEL void lstm_sigmoid(const float* x, size_t size, float* y) {
  for (size_t i = 0; i < size; ++i) y[i] = sigmoid(x[i]);
}
ESPALIER_KERNEL void lstm_tanh(const float* x, size_t size, float* y) {
  for (size_t i = 0; i < size; ++i) y[i] = hyperbolic_tangent(x[i]);
}

}  // namespace espalier::nn

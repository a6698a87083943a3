#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

// Elementwise and reducing loops over channels-last activations, compiled once per instruction set
// and chosen when the program starts. All are single-threaded and give the same bits at every call.
//
// Activations are float or Bf16; sums are always taken in float or double.
namespace espalier::nn {

// Upper half of a float32. Conversions round to nearest, ties to even.
struct Bf16 {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(Bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
inline void put(float& out, float x) { out = x; }
inline void put(Bf16& out, float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  // A NaN must not be rounded to infinity.
  const uint32_t rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
  out.bits = static_cast<uint16_t>(x != x ? 0x7fc0U : rounded);
}

void convert(const float* in, Bf16* out, size_t size);
void convert(const Bf16* in, float* out, size_t size);

// dy ← 0 where y ≤ 0.
void relu_backward(const float* y, float* dy, size_t size);
void relu_backward(const Bf16* y, Bf16* dy, size_t size);

// y[r, c] ← y[r, c] + bias[c], then max(·, 0) when `relu`.
void add_bias(float* y, const float* bias, size_t rows, size_t columns, bool relu);
// out[c] ← Σ_r x[r, c].
void column_sums(const float* x, size_t rows, size_t columns, float* out);

// A batch of images and the pooling windows over them; windows do not overlap.
struct PoolShape {
  size_t batch, height, width, channels, window, out_height, out_width;
};
// `argmax`: batch × out_height × out_width × channels positions inside the window, row by row; null
// when not wanted.
void max_pool(const PoolShape& shape, const float* x, float* y, uint8_t* argmax);
void max_pool(const PoolShape& shape, const Bf16* x, Bf16* y, uint8_t* argmax);
// dx receives dy at each maximum and 0 elsewhere. With `positive`, also 0 where the maximum y is
// not positive: the backward pass of a ReLU in front.
void max_pool_backward(const PoolShape& shape, const float* dy, const float* y,
                       const uint8_t* argmax, bool positive, float* dx);
void max_pool_backward(const PoolShape& shape, const Bf16* dy, const Bf16* y, const uint8_t* argmax,
                       bool positive, Bf16* dx);

// batch × pixels × channels to batch × channels × pixels in float, and back.
void flatten(const float* x, size_t batch, size_t pixels, size_t channels, float* y);
void flatten(const Bf16* x, size_t batch, size_t pixels, size_t channels, float* y);
void unflatten(const float* dy, size_t batch, size_t pixels, size_t channels, float* dx);
void unflatten(const float* dy, size_t batch, size_t pixels, size_t channels, Bf16* dx);

// Mean over the pixels, and its backward pass.
void global_average(const float* x, size_t batch, size_t pixels, size_t channels, float* y);
void global_average(const Bf16* x, size_t batch, size_t pixels, size_t channels, float* y);
void global_average_backward(const float* dy, size_t batch, size_t pixels, size_t channels,
                             float* dx);
void global_average_backward(const float* dy, size_t batch, size_t pixels, size_t channels,
                             Bf16* dx);

// Softmax cross-entropy: the sum of the losses and the number of correct predictions; `gradient`
// (null when not wanted) receives that of the mean loss. An index of the first largest logit is the
// prediction.
struct LossSums {
  double loss;
  uint64_t correct;
};
LossSums cross_entropy(const float* logits, const int64_t* labels, size_t batch, size_t classes,
                       float* gradient);

}  // namespace espalier::nn

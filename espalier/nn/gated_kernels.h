#pragma once

#include <cstddef>

#include "espalier/nn/kernels.h"

// The arithmetic of what gates (gates.h) read and scale, one sample at a time: `rows` × `channels`
// values, rows are pixels. Gates are always float. Sums are taken in an order that depends on rows
// and channels alone, so that a sample gives the same whatever its batch.
namespace espalier::nn {

// Per channel, the mean over the rows.
void channel_means(const float* x, size_t rows, size_t channels, float* means);
void channel_means(const Bf16* x, size_t rows, size_t channels, float* means);

struct GatedShape {
  size_t rows, channels;
};

// y = a[c]·x + b[c] (+ residual), then max(·, 0) when `relu`.
template <class T>
struct GatedAffine {
  const T* x = nullptr;
  const T* residual = nullptr;  // may be null
  const float *a = nullptr, *b = nullptr;
  bool relu = false;
  float* means = nullptr;  // y's mean over the rows per channel, when not null
};
void gated_affine(const GatedShape& shape, const GatedAffine<float>& in, float* y);
void gated_affine(const GatedShape& shape, const GatedAffine<Bf16>& in, Bf16* y);

// What gated_gradient_sums reads and writes beside dy. Null where something is not there.
template <class T>
struct GatedGradient {
  const T* y = nullptr;           // masks: dz is 0 where y ≤ 0
  const T* x = nullptr;           // never null
  const T* more = nullptr;        // second part of dy
  const float* even = nullptr;    // third part, the same at every row
  const float* center = nullptr;  // null: 0
  const float* scale = nullptr;   // null: 1
  float* sum = nullptr;           // never null
  float* product = nullptr;       // never null
};
// With dz = (dy + more + even[c]), masked: sum = Σ dz, product = Σ dz·(x − center[c]) per channel,
// and dy ← scale[c]·dz.
void gated_gradient_sums(const GatedShape& shape, const GatedGradient<float>& in, float* dy);
void gated_gradient_sums(const GatedShape& shape, const GatedGradient<Bf16>& in, Bf16* dy);

// dx = a[c]·dz + b[c]·x + d[c]; dx may be dz.
void gated_input_gradient(const GatedShape& shape, const float* dz, const float* x, const float* a,
                          const float* b, const float* d, float* dx);
void gated_input_gradient(const GatedShape& shape, const Bf16* dz, const Bf16* x, const float* a,
                          const float* b, const float* d, Bf16* dx);

// y ← y + even[c] at every row.
void add_even(const GatedShape& shape, const float* even, float* y);
void add_even(const GatedShape& shape, const float* even, Bf16* y);

}  // namespace espalier::nn

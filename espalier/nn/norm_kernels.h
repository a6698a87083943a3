#pragma once

#include <cstddef>

#include "espalier/nn/kernels.h"

// The passes of batch and group normalization over `rows` × `channels` values (rows are pixels).
// Sums are kept in float for at most 256 rows and then in double. `channels`-long tables come and
// go as float or double arrays.
namespace espalier::nn {

struct NormShape {
  size_t rows, channels;
};

// Per channel: the mean and the sum of squared deviations from it.
void moments(const NormShape& shape, const float* x, double* mean, double* squares);
void moments(const NormShape& shape, const Bf16* x, double* mean, double* squares);

// y = a[c]·x + b[c] (+ residual), then max(·, 0) when `relu`. residual may be null.
void affine(const NormShape& shape, const float* x, const float* residual, const float* a,
            const float* b, bool relu, float* y);
void affine(const NormShape& shape, const Bf16* x, const Bf16* residual, const float* a,
            const float* b, bool relu, Bf16* y);

// dy ← (dy + more) where y > 0, else 0 (everywhere when y is null; `more` may be null), and per
// channel sum = Σ dy, product = Σ dy·(x − center[c]).
void norm_gradient_sums(const NormShape& shape, const float* y, const float* x, const float* more,
                        const float* center, float* dy, double* sum, double* product);
void norm_gradient_sums(const NormShape& shape, const Bf16* y, const Bf16* x, const Bf16* more,
                        const float* center, Bf16* dy, double* sum, double* product);

// dx = a[c]·dy + b[c]·x + d[c]; dx may be dy.
void norm_input_gradient(const NormShape& shape, const float* dy, const float* x, const float* a,
                         const float* b, const float* d, float* dx);
void norm_input_gradient(const NormShape& shape, const Bf16* dy, const Bf16* x, const float* a,
                         const float* b, const float* d, Bf16* dx);

}  // namespace espalier::nn

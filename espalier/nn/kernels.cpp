#include "espalier/nn/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "espalier/base/simd.h"

namespace espalier::nn {
namespace {

template <class T>
ESPALIER_INLINE void relu_backward_any(const T* y, T* dy, size_t size) {
  for (size_t i = 0; i < size; ++i) put(dy[i], to_float(y[i]) > 0 ? to_float(dy[i]) : 0.0f);
}

template <class T>
ESPALIER_INLINE void flatten_any(const T* x, size_t batch, size_t pixels, size_t channels,
                                 float* y) {
  const size_t size = pixels * channels;
  if (pixels == 1 || channels == 1) {  // the order is the same already
    for (size_t i = 0; i < batch * size; ++i) y[i] = to_float(x[i]);
    return;
  }
  for (size_t n = 0; n < batch; ++n) {
    for (size_t c = 0; c < channels; ++c) {
      for (size_t p = 0; p < pixels; ++p)
        y[n * size + c * pixels + p] = to_float(x[n * size + p * channels + c]);
    }
  }
}

template <class T>
ESPALIER_INLINE void unflatten_any(const float* dy, size_t batch, size_t pixels, size_t channels,
                                   T* dx) {
  const size_t size = pixels * channels;
  if (pixels == 1 || channels == 1) {
    for (size_t i = 0; i < batch * size; ++i) put(dx[i], dy[i]);
    return;
  }
  for (size_t n = 0; n < batch; ++n) {
    for (size_t p = 0; p < pixels; ++p) {
      for (size_t c = 0; c < channels; ++c)
        put(dx[n * size + p * channels + c], dy[n * size + c * pixels + p]);
    }
  }
}

template <class T>
ESPALIER_INLINE void global_average_any(const T* x, size_t batch, size_t pixels, size_t channels,
                                        float* y) {
  for (size_t n = 0; n < batch; ++n) {
    float* out = y + n * channels;
    std::fill(out, out + channels, 0.0f);
    for (size_t p = 0; p < pixels; ++p) {
      const T* in = x + (n * pixels + p) * channels;
      for (size_t c = 0; c < channels; ++c) out[c] += to_float(in[c]);
    }
    for (size_t c = 0; c < channels; ++c) out[c] /= static_cast<float>(pixels);
  }
}

template <class T>
ESPALIER_INLINE void global_average_backward_any(const float* dy, size_t batch, size_t pixels,
                                                 size_t channels, T* dx) {
  for (size_t n = 0; n < batch; ++n) {
    for (size_t p = 0; p < pixels; ++p) {
      T* out = dx + (n * pixels + p) * channels;
      for (size_t c = 0; c < channels; ++c)
        put(out[c], dy[n * channels + c] / static_cast<float>(pixels));
    }
  }
}

}  // namespace

ESPALIER_KERNEL void convert(const float* in, Bf16* out, size_t size) {
  for (size_t i = 0; i < size; ++i) put(out[i], in[i]);
}
ESPALIER_KERNEL void convert(const Bf16* in, float* out, size_t size) {
  for (size_t i = 0; i < size; ++i) out[i] = to_float(in[i]);
}

ESPALIER_KERNEL void relu_backward(const float* y, float* dy, size_t size) {
  relu_backward_any(y, dy, size);
}
ESPALIER_KERNEL void relu_backward(const Bf16* y, Bf16* dy, size_t size) {
  relu_backward_any(y, dy, size);
}

ESPALIER_KERNEL void add_bias(float* y, const float* bias, size_t rows, size_t columns, bool relu) {
  const float floor = relu ? 0.0f : -INFINITY;
  for (size_t r = 0; r < rows; ++r) {
    float* row = y + r * columns;
    for (size_t c = 0; c < columns; ++c) {
      const float v = row[c] + bias[c];
      row[c] = v < floor ? floor : v;  // keeps a NaN
    }
  }
}

ESPALIER_KERNEL void column_sums(const float* x, size_t rows, size_t columns, float* out) {
  std::fill(out, out + columns, 0.0f);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) out[c] += x[r * columns + c];
  }
}

ESPALIER_KERNEL void flatten(const float* x, size_t batch, size_t pixels, size_t channels,
                             float* y) {
  flatten_any(x, batch, pixels, channels, y);
}
ESPALIER_KERNEL void flatten(const Bf16* x, size_t batch, size_t pixels, size_t channels,
                             float* y) {
  flatten_any(x, batch, pixels, channels, y);
}
ESPALIER_KERNEL void unflatten(const float* dy, size_t batch, size_t pixels, size_t channels,
                               float* dx) {
  unflatten_any(dy, batch, pixels, channels, dx);
}
ESPALIER_KERNEL void unflatten(const float* dy, size_t batch, size_t pixels, size_t channels,
                               Bf16* dx) {
  unflatten_any(dy, batch, pixels, channels, dx);
}

ESPALIER_KERNEL void global_average(const float* x, size_t batch, size_t pixels, size_t channels,
                                    float* y) {
  global_average_any(x, batch, pixels, channels, y);
}
ESPALIER_KERNEL void global_average(const Bf16* x, size_t batch, size_t pixels, size_t channels,
                                    float* y) {
  global_average_any(x, batch, pixels, channels, y);
}
ESPALIER_KERNEL void global_average_backward(const float* dy, size_t batch, size_t pixels,
                                             size_t channels, float* dx) {
  global_average_backward_any(dy, batch, pixels, channels, dx);
}
ESPALIER_KERNEL void global_average_backward(const float* dy, size_t batch, size_t pixels,
                                             size_t channels, Bf16* dx) {
  global_average_backward_any(dy, batch, pixels, channels, dx);
}

LossSums cross_entropy(const float* logits, const int64_t* labels, size_t batch, size_t classes,
                       float* gradient) {
  LossSums sums{0, 0};
  for (size_t n = 0; n < batch; ++n) {
    const float* row = logits + n * classes;
    const auto label = static_cast<size_t>(labels[n]);
    size_t best = 0;
    for (size_t c = 1; c < classes; ++c) {
      if (row[c] > row[best]) best = c;
    }
    const float largest = row[best];
    float total = 0;
    float* out = gradient == nullptr ? nullptr : gradient + n * classes;
    for (size_t c = 0; c < classes; ++c) {
      const float e = std::exp(row[c] - largest);
      total += e;
      if (out != nullptr) out[c] = e;
    }
    sums.loss += std::log(static_cast<double>(total)) - static_cast<double>(row[label] - largest);
    sums.correct += best == label ? 1 : 0;
    if (out == nullptr) continue;
    const float scale = 1 / (total * static_cast<float>(batch));
    for (size_t c = 0; c < classes; ++c) out[c] *= scale;
    out[label] -= 1 / static_cast<float>(batch);
  }
  return sums;
}

}  // namespace espalier::nn

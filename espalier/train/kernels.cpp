#include "espalier/train/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "espalier/train/simd.h"

namespace espalier::train {
namespace {

template <class T>
ESPALIER_INLINE void relu_backward_any(const T* y, T* dy, size_t size) {
  for (size_t i = 0; i < size; ++i) put(dy[i], to_float(y[i]) > 0 ? to_float(dy[i]) : 0.0f);
}

template <class T>
ESPALIER_INLINE void max_pool_any(const PoolShape& s, const T* x, T* y, uint8_t* argmax) {
  const size_t c = s.channels;
  for (size_t n = 0; n < s.batch; ++n) {
    for (size_t oy = 0; oy < s.out_height; ++oy) {
      for (size_t ox = 0; ox < s.out_width; ++ox) {
        const T* in = x + ((n * s.height + oy * s.window) * s.width + ox * s.window) * c;
        T* out = y + ((n * s.out_height + oy) * s.out_width + ox) * c;
        uint8_t* arg = argmax == nullptr ? nullptr : argmax + (out - y);
        if (s.window == 2) {
          const T* below = in + s.width * c;
          for (size_t i = 0; i < c; ++i) {
            const float v0 = to_float(in[i]), v1 = to_float(in[i + c]);
            const float v2 = to_float(below[i]), v3 = to_float(below[i + c]);
            const float top = v1 > v0 ? v1 : v0, bottom = v3 > v2 ? v3 : v2;
            put(out[i], bottom > top ? bottom : top);
          }
          if (arg == nullptr) continue;
          for (size_t i = 0; i < c; ++i) {
            const float v0 = to_float(in[i]), v1 = to_float(in[i + c]);
            const float v2 = to_float(below[i]), v3 = to_float(below[i + c]);
            const float top = v1 > v0 ? v1 : v0, bottom = v3 > v2 ? v3 : v2;
            const uint8_t upper = v1 > v0 ? 1 : 0, lower = v3 > v2 ? 3 : 2;
            arg[i] = bottom > top ? lower : upper;
          }
          continue;
        }
        std::memcpy(out, in, c * sizeof(T));
        if (arg != nullptr) std::memset(arg, 0, c);
        for (size_t k = 1; k < s.window * s.window; ++k) {
          const T* at = in + ((k / s.window) * s.width + k % s.window) * c;
          for (size_t i = 0; i < c; ++i) {
            if (to_float(at[i]) > to_float(out[i])) {
              out[i] = at[i];
              if (arg != nullptr) arg[i] = static_cast<uint8_t>(k);
            }
          }
        }
      }
    }
  }
}

template <class T>
ESPALIER_INLINE void max_pool_backward_any(const PoolShape& s, const T* dy, const T* y,
                                           const uint8_t* argmax, bool positive, T* dx) {
  const size_t c = s.channels;
  // Pixels outside every window.
  if (s.out_height * s.window != s.height || s.out_width * s.window != s.width) {
    std::memset(dx, 0, s.batch * s.height * s.width * c * sizeof(T));
  }
  const float floor = positive ? 0.0f : -INFINITY;
  for (size_t n = 0; n < s.batch; ++n) {
    for (size_t oy = 0; oy < s.out_height; ++oy) {
      for (size_t ox = 0; ox < s.out_width; ++ox) {
        const size_t out = ((n * s.out_height + oy) * s.out_width + ox) * c;
        const T* g = dy + out;
        const T* top = y + out;
        const uint8_t* arg = argmax + out;
        for (size_t k = 0; k < s.window * s.window; ++k) {
          T* to = dx + ((n * s.height + oy * s.window + k / s.window) * s.width + ox * s.window +
                        k % s.window) *
                           c;
          for (size_t i = 0; i < c; ++i) {
            put(to[i], (arg[i] == k) & (to_float(top[i]) > floor) ? to_float(g[i]) : 0.0f);
          }
        }
      }
    }
  }
}

template <class T>
ESPALIER_INLINE void flatten_any(const T* x, size_t batch, size_t pixels, size_t channels,
                                 float* y) {
  const size_t size = pixels * channels;
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

ESPALIER_KERNEL void max_pool(const PoolShape& shape, const float* x, float* y, uint8_t* argmax) {
  max_pool_any(shape, x, y, argmax);
}
ESPALIER_KERNEL void max_pool(const PoolShape& shape, const Bf16* x, Bf16* y, uint8_t* argmax) {
  max_pool_any(shape, x, y, argmax);
}
ESPALIER_KERNEL void max_pool_backward(const PoolShape& shape, const float* dy, const float* y,
                                       const uint8_t* argmax, bool positive, float* dx) {
  max_pool_backward_any(shape, dy, y, argmax, positive, dx);
}
ESPALIER_KERNEL void max_pool_backward(const PoolShape& shape, const Bf16* dy, const Bf16* y,
                                       const uint8_t* argmax, bool positive, Bf16* dx) {
  max_pool_backward_any(shape, dy, y, argmax, positive, dx);
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

}  // namespace espalier::train

#include "espalier/nn/norm_kernels.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "espalier/nn/lanes.h"

namespace espalier::nn {
namespace {

// A tile is four vectors. Rows of fewer than 64 channels are joined, so that a tile has whole rows.
constexpr size_t kTile = 4 * kLanes;
constexpr size_t kRowsPerSum = 256;

// How rows are joined into lines of `width` values, a multiple of kTile when possible.
struct Lines {
  size_t width, count, repeat;
  explicit Lines(const NormShape& s) {
    repeat = 1;
    while (s.channels * repeat % kTile != 0 && repeat < kTile && s.rows % (repeat * 2) == 0)
      repeat *= 2;
    width = s.channels * repeat;
    count = s.rows / repeat;
  }
};

// Adds Σ f(line, lane) of two quantities to `first` and `second`, per channel. `tile(offset, a, b)`
// adds four vectors of values at `offset` to the sums; `scalar(offset, channel, a, b)` does one
// value.
template <class Lanes, class Tile, class Scalar>
ESPALIER_INLINE void reduce(const NormShape& s, double* first, double* second, Tile tile,
                            Scalar scalar) {
  std::fill(first, first + s.channels, 0.0);
  std::fill(second, second + s.channels, 0.0);
  const Lines lines(s);
  if (lines.width % kTile != 0) {
    for (size_t begin = 0; begin < s.rows; begin += kRowsPerSum) {
      const size_t end = std::min(s.rows, begin + kRowsPerSum);
      for (size_t c = 0; c < s.channels; ++c) {
        float a = 0, b = 0;
        for (size_t r = begin; r < end; ++r) scalar(r * s.channels + c, c, a, b);
        first[c] += static_cast<double>(a);
        second[c] += static_cast<double>(b);
      }
    }
    return;
  }
  for (size_t begin = 0; begin < lines.count; begin += kRowsPerSum) {
    const size_t end = std::min(lines.count, begin + kRowsPerSum);
    for (size_t at = 0; at < lines.width; at += kTile) {
      Lanes a[4] = {}, b[4] = {};
      for (size_t r = begin; r < end; ++r) tile(r * lines.width + at, at, a, b);
      const float* a_values = reinterpret_cast<const float*>(a);
      const float* b_values = reinterpret_cast<const float*>(b);
      for (size_t i = 0; i < kTile; ++i) {
        first[(at + i) % s.channels] += static_cast<double>(a_values[i]);
        second[(at + i) % s.channels] += static_cast<double>(b_values[i]);
      }
    }
  }
}

// A table of `channels` values repeated to the width of a line.
std::vector<float> repeated(const float* table, const NormShape& s, size_t width) {
  std::vector<float> out(width);
  for (size_t i = 0; i < width; ++i) out[i] = table[i % s.channels];
  return out;
}

template <class Lanes, class T>
ESPALIER_INLINE void moments_any(const NormShape& s, const T* x, double* mean, double* squares) {
  // Deviations from the first row's values, so that a large mean does not eat the variance's
  // digits.
  std::vector<float> first(s.channels);
  for (size_t c = 0; c < s.channels; ++c) first[c] = to_float(x[c]);
  const std::vector<float> shift = repeated(first.data(), s, Lines(s).width);
  reduce<Lanes>(
      s, mean, squares,
      [&](size_t offset, size_t lane, Lanes * a, Lanes * b) __attribute__((always_inline)) {
        for (size_t k = 0; k < 4; ++k) {
          Lanes value, center;
          load(x + offset + 16 * k, value);
          load(shift.data() + lane + 16 * k, center);
          value -= center;
          a[k] += value;
          b[k] += value * value;
        }
      },
      [&](size_t offset, size_t c, float& a, float& b) __attribute__((always_inline)) {
        const float value = to_float(x[offset]) - first[c];
        a += value;
        b += value * value;
      });
  const auto rows = static_cast<double>(s.rows);
  for (size_t c = 0; c < s.channels; ++c) {
    const double offset = mean[c] / rows;
    squares[c] = std::max(0.0, squares[c] - offset * mean[c]);
    mean[c] = static_cast<double>(first[c]) + offset;
  }
}

template <class T>
ESPALIER_INLINE void affine_any(const NormShape& s, const T* x, const T* residual, const float* a,
                                const float* b, bool relu, T* y) {
  const Lines lines(s);
  const std::vector<float> scale = repeated(a, s, lines.width), shift = repeated(b, s, lines.width);
  const float floor = relu ? 0.0f : -INFINITY;
  for (size_t r = 0; r < lines.count; ++r) {
    const T* in = x + r * lines.width;
    T* out = y + r * lines.width;
    if (residual == nullptr) {
      for (size_t i = 0; i < lines.width; ++i) {
        const float v = scale[i] * to_float(in[i]) + shift[i];
        put(out[i], v < floor ? floor : v);
      }
    } else {
      const T* add = residual + r * lines.width;
      for (size_t i = 0; i < lines.width; ++i) {
        const float v = scale[i] * to_float(in[i]) + shift[i] + to_float(add[i]);
        put(out[i], v < floor ? floor : v);
      }
    }
  }
}

template <class Lanes, bool kMask, bool kMore, class T>
ESPALIER_INLINE void gradient_sums_case(const NormShape& s, const T* y, const T* x, const T* more,
                                        const float* center, T* dy, double* sum, double* product) {
  const std::vector<float> middle = repeated(center, s, Lines(s).width);
  reduce<Lanes>(
      s, sum, product,
      [&](size_t offset, size_t lane, Lanes * a, Lanes * b) __attribute__((always_inline)) {
        for (size_t k = 0; k < 4; ++k) {
          Lanes g, value, at;
          load(dy + offset + 16 * k, g);
          if constexpr (kMore) {
            load(more + offset + 16 * k, value);
            g += value;
          }
          if constexpr (kMask) {
            load(y + offset + 16 * k, value);
            g = keep_greater(g, value, 0.0f);
          }
          if constexpr (kMask || kMore) store(g, dy + offset + 16 * k);
          load(x + offset + 16 * k, value);
          load(middle.data() + lane + 16 * k, at);
          a[k] += g;
          b[k] += g * (value - at);
        }
      },
      [&](size_t offset, size_t c, float& a, float& b) __attribute__((always_inline)) {
        float g = to_float(dy[offset]);
        if constexpr (kMore) g += to_float(more[offset]);
        if constexpr (kMask) g = to_float(y[offset]) > 0 ? g : 0.0f;
        put(dy[offset], g);
        a += g;
        b += g * (to_float(x[offset]) - center[c]);
      });
}

template <class Lanes, class T>
ESPALIER_INLINE void gradient_sums_any(const NormShape& s, const T* y, const T* x, const T* more,
                                       const float* center, T* dy, double* sum, double* product) {
  if (y != nullptr && more != nullptr)
    return gradient_sums_case<Lanes, true, true>(s, y, x, more, center, dy, sum, product);
  if (y != nullptr)
    return gradient_sums_case<Lanes, true, false>(s, y, x, more, center, dy, sum, product);
  if (more != nullptr)
    return gradient_sums_case<Lanes, false, true>(s, y, x, more, center, dy, sum, product);
  gradient_sums_case<Lanes, false, false>(s, y, x, more, center, dy, sum, product);
}

template <class T>
ESPALIER_INLINE void input_gradient_any(const NormShape& s, const T* dy, const T* x, const float* a,
                                        const float* b, const float* d, T* dx) {
  const Lines lines(s);
  const std::vector<float> scale = repeated(a, s, lines.width), slope = repeated(b, s, lines.width),
                           shift = repeated(d, s, lines.width);
  for (size_t r = 0; r < lines.count; ++r) {
    const size_t at = r * lines.width;
    for (size_t i = 0; i < lines.width; ++i) {
      put(dx[at + i],
          scale[i] * to_float(dy[at + i]) + (slope[i] * to_float(x[at + i]) + shift[i]));
    }
  }
}

}  // namespace

void moments(const NormShape& shape, const float* x, double* mean, double* squares) {
  with_lanes([&]<class Lanes>()
                 __attribute__((always_inline)) { moments_any<Lanes>(shape, x, mean, squares); });
}
void moments(const NormShape& shape, const Bf16* x, double* mean, double* squares) {
  with_lanes([&]<class Lanes>()
                 __attribute__((always_inline)) { moments_any<Lanes>(shape, x, mean, squares); });
}
ESPALIER_KERNEL void affine(const NormShape& shape, const float* x, const float* residual,
                            const float* a, const float* b, bool relu, float* y) {
  affine_any(shape, x, residual, a, b, relu, y);
}
ESPALIER_KERNEL void affine(const NormShape& shape, const Bf16* x, const Bf16* residual,
                            const float* a, const float* b, bool relu, Bf16* y) {
  affine_any(shape, x, residual, a, b, relu, y);
}
void norm_gradient_sums(const NormShape& shape, const float* y, const float* x, const float* more,
                        const float* center, float* dy, double* sum, double* product) {
  with_lanes([&]<class Lanes>() __attribute__((always_inline)) {
    gradient_sums_any<Lanes>(shape, y, x, more, center, dy, sum, product);
  });
}
void norm_gradient_sums(const NormShape& shape, const Bf16* y, const Bf16* x, const Bf16* more,
                        const float* center, Bf16* dy, double* sum, double* product) {
  with_lanes([&]<class Lanes>() __attribute__((always_inline)) {
    gradient_sums_any<Lanes>(shape, y, x, more, center, dy, sum, product);
  });
}
ESPALIER_KERNEL void norm_input_gradient(const NormShape& shape, const float* dy, const float* x,
                                         const float* a, const float* b, const float* d,
                                         float* dx) {
  input_gradient_any(shape, dy, x, a, b, d, dx);
}
ESPALIER_KERNEL void norm_input_gradient(const NormShape& shape, const Bf16* dy, const Bf16* x,
                                         const float* a, const float* b, const float* d, Bf16* dx) {
  input_gradient_any(shape, dy, x, a, b, d, dx);
}

}  // namespace espalier::nn

#include <cmath>

#include "espalier/nn/kernels.h"
#include "espalier/nn/lanes.h"

namespace espalier::nn {
namespace {

// Calls body(c) for vectors of channels that cover all of them; the last one may overlap the one
// before, whose results it repeats. Returns the first channel that is left: all, when there are
// fewer than a vector.
template <class Body>
ESPALIER_INLINE size_t for_vectors(size_t channels, Body body) {
  if (channels < kLanes) return 0;
  size_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) body(c);
  if (c < channels) body(channels - kLanes);
  return channels;
}

// The largest of a window's values at `in`, 16 channels at a time, or one by one when there are
// fewer. The first of equal values wins.
template <class Lanes, class T>
ESPALIER_INLINE void pool_window(const PoolShape& s, const T* in, T* out, uint8_t* argmax) {
  const size_t row = s.width * s.channels, taps = s.window * s.window;
  size_t c = for_vectors(
      s.channels, [&](size_t first) __attribute__((always_inline)) {
        Lanes best;
        Words<Lanes> place = {};
        load(in + first, best);
        for (size_t k = 1; k < taps; ++k) {
          Lanes value;
          load(in + (k / s.window) * row + (k % s.window) * s.channels + first, value);
          place =
              select_greater(value, best, broadcast<Words<Lanes>>(static_cast<uint32_t>(k)), place);
          best = select_greater(value, best, value, best);
        }
        store(best, out + first);
        if (argmax != nullptr) store(place, argmax + first);
      });
  for (; c < s.channels; ++c) {
    float best = to_float(in[c]);
    uint8_t place = 0;
    for (size_t k = 1; k < taps; ++k) {
      const float value = to_float(in[(k / s.window) * row + (k % s.window) * s.channels + c]);
      place = value > best ? static_cast<uint8_t>(k) : place;
      best = value > best ? value : best;
    }
    put(out[c], best);
    if (argmax != nullptr) argmax[c] = place;
  }
}

template <class Lanes, class T>
ESPALIER_INLINE void max_pool_any(const PoolShape& s, const T* x, T* y, uint8_t* argmax) {
  for (size_t n = 0; n < s.batch; ++n) {
    for (size_t oy = 0; oy < s.out_height; ++oy) {
      for (size_t ox = 0; ox < s.out_width; ++ox) {
        const T* in = x + ((n * s.height + oy * s.window) * s.width + ox * s.window) * s.channels;
        const size_t out = ((n * s.out_height + oy) * s.out_width + ox) * s.channels;
        pool_window<Lanes>(s, in, y + out, argmax == nullptr ? nullptr : argmax + out);
      }
    }
  }
}

template <class Lanes, class T>
ESPALIER_INLINE void scatter_window(const PoolShape& s, const T* dy, const T* y,
                                    const uint8_t* argmax, float floor, T* dx) {
  const size_t row = s.width * s.channels, taps = s.window * s.window;
  size_t c = for_vectors(
      s.channels, [&](size_t first) __attribute__((always_inline)) {
        Lanes gradient, top;
        Words<Lanes> place;
        load(dy + first, gradient);
        load(y + first, top);
        load(argmax + first, place);
        gradient = keep_greater(gradient, top, floor);
        for (size_t i = 0, k = 0; i < s.window; ++i) {
          for (size_t j = 0; j < s.window; ++j, ++k) {
            store(keep_equal(gradient, place, static_cast<uint32_t>(k)),
                  dx + i * row + j * s.channels + first);
          }
        }
      });
  for (; c < s.channels; ++c) {
    const float gradient = to_float(y[c]) > floor ? to_float(dy[c]) : 0.0f;
    for (size_t k = 0; k < taps; ++k) {
      put(dx[(k / s.window) * row + (k % s.window) * s.channels + c],
          argmax[c] == k ? gradient : 0.0f);
    }
  }
}

template <class Lanes, class T>
ESPALIER_INLINE void max_pool_backward_any(const PoolShape& s, const T* dy, const T* y,
                                           const uint8_t* argmax, bool positive, T* dx) {
  // Pixels outside every window.
  if (s.out_height * s.window != s.height || s.out_width * s.window != s.width) {
    std::memset(dx, 0, s.batch * s.height * s.width * s.channels * sizeof(T));
  }
  const float floor = positive ? 0.0f : -INFINITY;
  for (size_t n = 0; n < s.batch; ++n) {
    for (size_t oy = 0; oy < s.out_height; ++oy) {
      for (size_t ox = 0; ox < s.out_width; ++ox) {
        const size_t out = ((n * s.out_height + oy) * s.out_width + ox) * s.channels;
        T* to = dx + ((n * s.height + oy * s.window) * s.width + ox * s.window) * s.channels;
        scatter_window<Lanes>(s, dy + out, y + out, argmax + out, floor, to);
      }
    }
  }
}

}  // namespace

void max_pool(const PoolShape& shape, const float* x, float* y, uint8_t* argmax) {
  with_lanes([&]<class Lanes>()
                 __attribute__((always_inline)) { max_pool_any<Lanes>(shape, x, y, argmax); });
}
void max_pool(const PoolShape& shape, const Bf16* x, Bf16* y, uint8_t* argmax) {
  with_lanes([&]<class Lanes>()
                 __attribute__((always_inline)) { max_pool_any<Lanes>(shape, x, y, argmax); });
}
void max_pool_backward(const PoolShape& shape, const float* dy, const float* y,
                       const uint8_t* argmax, bool positive, float* dx) {
  with_lanes([&]<class Lanes>() __attribute__((always_inline)) {
    max_pool_backward_any<Lanes>(shape, dy, y, argmax, positive, dx);
  });
}
void max_pool_backward(const PoolShape& shape, const Bf16* dy, const Bf16* y, const uint8_t* argmax,
                       bool positive, Bf16* dx) {
  with_lanes([&]<class Lanes>() __attribute__((always_inline)) {
    max_pool_backward_any<Lanes>(shape, dy, y, argmax, positive, dx);
  });
}

}  // namespace espalier::nn

#include "espalier/nn/thin_conv.h"

#include <algorithm>

#include "espalier/nn/lanes.h"

namespace espalier::nn {

namespace {

size_t line_values(const ConvShape& s) { return (s.width + 2 * s.padding) * s.channels; }
size_t image_values(const ConvShape& s) {
  return ((s.height + 2 * s.padding) * line_values(s) + kLanes - 1) / kLanes * kLanes;
}
// By tap, then by output channel; the last row is the bias's.
size_t sum_values(const ConvShape& s) {
  return (s.kernel * s.kernel * s.channels + 1) * s.out_channels;
}

ESPALIER_INLINE void copy_image(const ConvShape& s, const Bf16* image, float* padded) {
  const size_t row = s.width * s.channels;
  for (size_t y = 0; y < s.height; ++y) {
    float* to = padded + (y + s.padding) * line_values(s) + s.padding * s.channels;
    for (size_t i = 0; i < row; ++i) to[i] = to_float(image[y * row + i]);
  }
}

// One image, for a kernel of kHeight lines of kWidth values (kernel × channels).
template <class Lanes, size_t kHeight, size_t kWidth>
ESPALIER_INLINE void add_image(const ConvShape& s, const float* padded, const Bf16* dy,
                               float* sums) {
  const size_t line = line_values(s), step = s.stride * s.channels;
  for (size_t channel = 0; channel < s.out_channels; channel += kLanes) {
    Lanes taps[kHeight][kWidth] = {}, all = {};
    for (size_t y = 0; y < s.out_height; ++y) {
      const float* at = padded + y * s.stride * line;
      const Bf16* from = dy + y * s.out_width * s.out_channels + channel;
      for (size_t x = 0; x < s.out_width; ++x, at += step, from += s.out_channels) {
        Lanes gradient;
        load(from, gradient);
        all += gradient;
#pragma GCC unroll 5
        for (size_t h = 0; h < kHeight; ++h) {
#pragma GCC unroll 9
          for (size_t w = 0; w < kWidth; ++w) taps[h][w] += gradient * at[h * line + w];
        }
      }
    }
    const auto add = [&](size_t row, const Lanes& sum) __attribute__((always_inline)) {
      float* const to = sums + row * s.out_channels + channel;
      Lanes before;
      load(to, before);
      store(before + sum, to);
    };
    for (size_t h = 0; h < kHeight; ++h) {
      for (size_t w = 0; w < kWidth; ++w) add(h * kWidth + w, taps[h][w]);
    }
    add(kHeight * kWidth, all);
  }
}

template <class Lanes, size_t kHeight, size_t kWidth>
ESPALIER_INLINE void add_images(const ConvShape& s, const Bf16* x, const Bf16* dy, float* padded,
                                float* sums) {
  for (size_t n = 0; n < s.batch; ++n) {
    copy_image(s, x + n * s.height * s.width * s.channels, padded);
    add_image<Lanes, kHeight, kWidth>(s, padded,
                                      dy + n * s.out_height * s.out_width * s.out_channels, sums);
  }
}

void add_all(const ConvShape& s, const Bf16* x, const Bf16* dy, float* padded, float* sums) {
  with_lanes([&]<class Lanes>() __attribute__((always_inline)) {
    if (s.kernel == 5) {
      add_images<Lanes, 5, 5>(s, x, dy, padded, sums);
    } else if (s.channels == 3) {
      add_images<Lanes, 3, 9>(s, x, dy, padded, sums);
    } else {
      add_images<Lanes, 3, 3>(s, x, dy, padded, sums);
    }
  });
}

}  // namespace

bool thin_conv(const ConvShape& s) {
  const bool taps =
      (s.kernel == 3 && (s.channels == 1 || s.channels == 3)) || (s.kernel == 5 && s.channels == 1);
  return taps && s.out_channels % kLanes == 0 && s.out_channels > 0;
}

size_t thin_conv_scratch(const ConvShape& s) {
  return (image_values(s) + sum_values(s)) * sizeof(float);
}

void thin_conv_gradient(const ConvShape& s, const Bf16* x, const Bf16* dy, float* weight_gradient,
                        float* bias_gradient, float* scratch) {
  float *const padded = scratch, *const sums = scratch + image_values(s);
  std::fill_n(scratch, image_values(s) + sum_values(s), 0.0f);
  add_all(s, x, dy, padded, sums);
  const size_t taps = s.kernel * s.kernel;
  for (size_t o = 0; o < s.out_channels; ++o) {
    for (size_t t = 0; t < taps; ++t) {
      for (size_t c = 0; c < s.channels; ++c) {
        weight_gradient[(o * s.channels + c) * taps + t] =
            sums[(t * s.channels + c) * s.out_channels + o];
      }
    }
    if (bias_gradient != nullptr) bias_gradient[o] = sums[taps * s.channels * s.out_channels + o];
  }
}

}  // namespace espalier::nn

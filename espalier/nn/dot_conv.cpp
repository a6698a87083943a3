#include "espalier/nn/dot_conv.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/nn/avx512.h"

namespace espalier::nn {

#if defined(__x86_64__)

namespace {

using namespace avx512;

// Of packed images, so that they and the sums stay in the second-level cache.
constexpr size_t kPackedBytes = 384 << 10;

size_t blocks(size_t count, size_t size) { return (count + size - 1) / size; }

// Output channels whose sums are in registers at a time, with all taps of a kernel row.
constexpr size_t outputs_of(size_t kernel) { return kernel == 1 ? 16 : kernel == 3 ? 8 : 5; }

// A pair of positions beside each other is 32 bits: the first in the lower half. A line of the
// padded input is packed once for each remainder of a pair's first position by twice the stride:
// pair r of plane q holds the positions 2·stride·r + q and stride further. Tap w of output pair r
// is pair r + w / (2·stride) of plane w % (2·stride).
struct Plan {
  size_t planes, pairs, line_pairs;  // pairs: of an output line, line_pairs: of a plane
  size_t outputs, out_blocks, in_blocks;
  size_t x_line, x_block, x_image;  // in pairs of one channel each
  size_t y_block, y_image;
  size_t images;  // packed at a time
  size_t sums;
};

Plan plan_of(const ConvShape& s) {
  Plan p{};
  p.planes = std::min(s.kernel, 2 * s.stride);
  p.pairs = blocks(s.out_width, 2);
  p.line_pairs = p.pairs + (s.kernel - 1) / (2 * s.stride);
  p.outputs = outputs_of(s.kernel);
  p.out_blocks = blocks(s.out_channels, p.outputs);
  p.in_blocks = blocks(s.channels, kLanes);
  p.x_line = p.planes * p.line_pairs * kLanes;
  p.x_block = (s.height + 2 * s.padding) * p.x_line;
  p.x_image = p.in_blocks * p.x_block;
  p.y_block = s.out_height * p.pairs * p.outputs;
  p.y_image = p.out_blocks * p.y_block;
  const size_t bytes = (p.x_image + p.y_image) * sizeof(uint32_t);
  p.images = std::clamp<size_t>(kPackedBytes / bytes, 1, s.batch);
  p.sums = p.in_blocks * p.out_blocks * s.kernel * s.kernel * p.outputs * kLanes;
  return p;
}
size_t aligned(size_t values) { return rounded_up(values, kLanes); }

// Channels of two positions beside each other; those that a mask leaves out are not read and zero.
ESPALIER_BF16 __m512i pair_of(const Bf16* first, __mmask16 first_mask, const Bf16* second,
                              __mmask16 second_mask) {
  const __m512i low = _mm512_maskz_loadu_epi16(first_mask, first);
  const __m512i both =
      _mm512_mask_loadu_epi16(low, static_cast<__mmask32>(second_mask) << kLanes, second - kLanes);
  return interleave(both);
}

// An image, in blocks of 16 channels; the lines above and below it are there already.
ESPALIER_BF16 void pack_input(const ConvShape& s, const Plan& p, const Bf16* image, uint32_t* to) {
  for (size_t b = 0; b < p.in_blocks; ++b, to += p.x_block) {
    const __mmask16 mask = first_lanes(s.channels - b * kLanes);
    const Bf16* line = image + b * kLanes;
    for (size_t y = 0; y < s.height; ++y, line += s.width * s.channels) {
      uint32_t* pair = to + (y + s.padding) * p.x_line;
      for (size_t q = 0; q < p.planes; ++q) {
        for (size_t r = 0; r < p.line_pairs; ++r, pair += kLanes) {
          // Left of the image they are beyond its width, too.
          const size_t first = 2 * s.stride * r + q - s.padding, second = first + s.stride;
          const Bf16* const at = line + static_cast<ptrdiff_t>(first * s.channels);
          _mm512_store_si512(pair,
                             pair_of(at, first < s.width ? mask : 0, at + s.stride * s.channels,
                                     second < s.width ? mask : 0));
        }
      }
    }
  }
}

// Of the outputs' gradient, in blocks of Plan::outputs channels. Adds to the biases' sums.
template <size_t kOutputs>
ESPALIER_BF16 void pack_gradient(const ConvShape& s, const Plan& p, const Bf16* image, uint32_t* to,
                                 float* bias) {
  const auto part = static_cast<__mmask16>((1U << kOutputs) - 1);
  for (size_t b = 0; b < p.out_blocks; ++b) {
    const size_t o = b * kOutputs;
    const __mmask16 mask = part & first_lanes(s.out_channels - o);
    const Bf16* at = image + o;
    __m512 sum = bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, bias + o);
    for (size_t y = 0; y < s.out_height; ++y) {
      for (size_t x = 0; x < s.out_width; x += 2, to += kOutputs) {
        const bool both = x + 1 < s.out_width;
        const __m512i pair = pair_of(at, mask, at + s.out_channels, both ? mask : 0);
        _mm512_mask_storeu_epi32(to, part, pair);
        at += (both ? 2 : 1) * s.out_channels;
        const __m512 low = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, pair, 16));
        const __m512 high = _mm512_castsi512_ps(
            _mm512_and_si512(pair, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
        sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
      }
    }
    if (bias != nullptr) _mm512_mask_storeu_ps(bias + o, mask, sum);
  }
}

// Adds to the sums of one block of inputs, one kernel row, one block of outputs: outputs × taps ×
// 16 inputs. x and dy are the first image's, at the block, x at the kernel row.
template <size_t kTaps, size_t kOutputs>
ESPALIER_BF16 void add_block(const ConvShape& s, const Plan& p, size_t images, const uint32_t* x,
                             const uint32_t* dy, float* sums) {
  __m512 sum[kOutputs][kTaps];
#pragma GCC unroll 16
  for (size_t o = 0; o < kOutputs; ++o) {
#pragma GCC unroll 5
    for (size_t w = 0; w < kTaps; ++w) sum[o][w] = _mm512_setzero_ps();
  }
  size_t place[kTaps];
  for (size_t w = 0; w < kTaps; ++w)
    place[w] = (w % (2 * s.stride) * p.line_pairs + w / (2 * s.stride)) * kLanes;
  for (size_t n = 0; n < images; ++n) {
    const uint32_t* gradient = dy + n * p.y_image;
    for (size_t y = 0; y < s.out_height; ++y) {
      const uint32_t* line = x + n * p.x_image + y * s.stride * p.x_line;
      for (size_t r = 0; r < p.pairs; ++r, line += kLanes, gradient += kOutputs) {
        __m512i input[kTaps];
#pragma GCC unroll 5
        for (size_t w = 0; w < kTaps; ++w) input[w] = _mm512_load_si512(line + place[w]);
#pragma GCC unroll 16
        for (size_t o = 0; o < kOutputs; ++o) {
          const __m512i out = broadcast(gradient[o]);
#pragma GCC unroll 5
          for (size_t w = 0; w < kTaps; ++w) sum[o][w] = add_products(sum[o][w], input[w], out);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (size_t o = 0; o < kOutputs; ++o) {
#pragma GCC unroll 5
    for (size_t w = 0; w < kTaps; ++w) {
      float* const to = sums + (o * kTaps + w) * kLanes;
      _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), sum[o][w]));
    }
  }
}

// What is packed of x, and the gradient of the same images, which is packed here.
template <size_t kKernel>
void add_images(const ConvShape& s, const Plan& p, size_t images, const uint32_t* x,
                const Bf16* gradient, uint32_t* dy, float* sums, float* bias) {
  constexpr size_t kOutputs = outputs_of(kKernel);
  for (size_t n = 0; n < images; ++n) {
    pack_gradient<kOutputs>(s, p, gradient + n * s.out_height * s.out_width * s.out_channels,
                            dy + n * p.y_image, bias);
  }
  for (size_t i = 0; i < p.in_blocks; ++i) {
    for (size_t row = 0; row < kKernel; ++row) {
      for (size_t o = 0; o < p.out_blocks; ++o, sums += kOutputs * kKernel * kLanes) {
        add_block<kKernel, kOutputs>(s, p, images, x + i * p.x_block + row * p.x_line,
                                     dy + o * p.y_block, sums);
      }
    }
  }
}

// From the order of the sums to that of the weights.
void unpack(const ConvShape& s, const Plan& p, const float* sums, float* gradient) {
  const size_t k = s.kernel, row_sums = p.out_blocks * p.outputs * k * kLanes;
  for (size_t o = 0; o < s.out_channels; ++o) {
    for (size_t i = 0; i < p.in_blocks; ++i) {
      const float* const from = sums + i * k * row_sums + o * k * kLanes;
      const size_t channels = std::min(kLanes, s.channels - i * kLanes);
      for (size_t c = 0; c < channels; ++c) {
        for (size_t h = 0; h < k; ++h) {
          for (size_t w = 0; w < k; ++w) *gradient++ = from[h * row_sums + w * kLanes + c];
        }
      }
    }
  }
}

}  // namespace

bool dot_conv(const ConvShape& s) {
  return has_dot_product() && (s.kernel == 1 || s.kernel == 3 || s.kernel == 5) &&
         (s.stride == 1 || s.stride == 2) && s.channels > 0 && s.out_channels > 0;
}

bool worth_dot_conv(const ConvShape& s) {
  return dot_conv(s) && s.kernel == 3 && s.channels >= 12 && s.channels <= 64;
}

size_t dot_conv_scratch(const ConvShape& s) {
  const Plan p = plan_of(s);
  return (p.images * (aligned(p.x_image) + aligned(p.y_image)) + aligned(p.sums)) *
         sizeof(uint32_t);
}

void dot_conv_gradient(const ConvShape& s, const Bf16* x, const Bf16* dy, float* weight_gradient,
                       float* bias_gradient, void* scratch) {
  const Plan p = plan_of(s);
  auto* const inputs = static_cast<uint32_t*>(scratch);
  uint32_t* const gradients = inputs + p.images * p.x_image;
  auto* const sums = reinterpret_cast<float*>(gradients + aligned(p.images * p.y_image));
  // The lines above and below the images stay zero.
  if (s.padding > 0) std::fill_n(inputs, p.images * p.x_image, 0U);
  std::fill_n(sums, p.sums, 0.0f);
  if (bias_gradient != nullptr) std::fill_n(bias_gradient, s.out_channels, 0.0f);
  const size_t x_size = s.height * s.width * s.channels,
               dy_size = s.out_height * s.out_width * s.out_channels;
  for (size_t first = 0; first < s.batch; first += p.images) {
    const size_t images = std::min(p.images, s.batch - first);
    for (size_t n = 0; n < images; ++n)
      pack_input(s, p, x + (first + n) * x_size, inputs + n * p.x_image);
    const Bf16* const gradient = dy + first * dy_size;
    if (s.kernel == 1) {
      add_images<1>(s, p, images, inputs, gradient, gradients, sums, bias_gradient);
    } else if (s.kernel == 3) {
      add_images<3>(s, p, images, inputs, gradient, gradients, sums, bias_gradient);
    } else {
      add_images<5>(s, p, images, inputs, gradient, gradients, sums, bias_gradient);
    }
  }
  unpack(s, p, sums, weight_gradient);
}

#else

bool dot_conv(const ConvShape&) { return false; }
bool worth_dot_conv(const ConvShape&) { return false; }
size_t dot_conv_scratch(const ConvShape&) { return 0; }
void dot_conv_gradient(const ConvShape&, const Bf16*, const Bf16*, float*, float*, void*) {
  ESPALIER_CHECK(false);
}

#endif

}  // namespace espalier::nn

#include "espalier/nn/thin_forward.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "espalier/base/error.h"
#include "espalier/nn/avx512.h"

namespace espalier::nn {

#if defined(__x86_64__)

namespace {

using namespace avx512;

constexpr size_t kMostChannels = 4;

struct Plan {
  size_t line, image;     // values of the padded input, with one to spare for the last pair
  size_t pairs, weights;  // pairs: of a kernel row; weights: of all
};
Plan plan_of(const ConvShape& s) {
  Plan p{};
  p.line = (s.width + 2 * s.padding) * s.channels;
  p.image = rounded_up((s.height + 2 * s.padding) * p.line + 1, 2 * kLanes);
  p.pairs = (s.kernel * s.channels + 1) / 2;
  p.weights = s.out_channels * s.kernel * p.pairs;
  return p;
}

// By vector of outputs, kernel row and pair: 16 outputs' pairs.
void pack_weights(const ConvShape& s, const Plan& p, const float* w, Bf16* to) {
  const size_t row = s.kernel * s.channels;
  for (size_t o = 0; o < s.out_channels; ++o) {
    for (size_t h = 0; h < s.kernel; ++h) {
      Bf16* at = to + ((o / kLanes * s.kernel + h) * p.pairs * kLanes + o % kLanes) * 2;
      for (size_t i = 0; i < 2 * p.pairs; ++i) {
        const size_t c = i % s.channels, tap = i / s.channels;
        const float value =
            i < row ? w[((o * s.channels + c) * s.kernel + h) * s.kernel + tap] : 0.0f;
        put(at[i / 2 * kLanes * 2 + i % 2], value);
      }
    }
  }
}

struct Row {
  const Bf16* x;      // at the first output's first tap
  const uint32_t* w;  // of the first vector of outputs
  const float* bias;  // or null
  Bf16* y;
};

// N outputs beside each other, V vectors of channels of each.
template <size_t N, size_t V>
ESPALIER_BF16 void outputs(const ConvShape& s, const Plan& p, const Row& row, float least) {
  __m512 sum[N][V];
#pragma GCC unroll 2
  for (size_t v = 0; v < V; ++v) {
    const __m512 start =
        row.bias == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(row.bias + v * kLanes);
#pragma GCC unroll 8
    for (size_t n = 0; n < N; ++n) sum[n][v] = start;
  }
  const size_t step = s.stride * s.channels, vector = s.kernel * p.pairs * kLanes;
  const uint32_t* w = row.w;
  for (size_t h = 0; h < s.kernel; ++h) {
    const Bf16* x = row.x + h * p.line;
    for (size_t i = 0; i < p.pairs; ++i, x += 2, w += kLanes) {
      __m512i weights[V];
#pragma GCC unroll 2
      for (size_t v = 0; v < V; ++v) weights[v] = _mm512_load_si512(w + v * vector);
#pragma GCC unroll 8
      for (size_t n = 0; n < N; ++n) {
        uint32_t pair;
        std::memcpy(&pair, x + n * step, sizeof(pair));
        const __m512i values = broadcast(pair);
#pragma GCC unroll 2
        for (size_t v = 0; v < V; ++v) {
          sum[n][v] = add_products(sum[n][v], values, weights[v]);
        }
      }
    }
  }
  const __m512 floor = _mm512_set1_ps(least);  // as the first operand, so that NaN stays
#pragma GCC unroll 8
  for (size_t n = 0; n < N; ++n) {
#pragma GCC unroll 2
    for (size_t v = 0; v < V; ++v) {
      const __m256bh half =
          _mm512_maskz_cvtneps_pbh(kAll, _mm512_maskz_max_ps(kAll, floor, sum[n][v]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(row.y + n * s.out_channels + v * kLanes),
                          reinterpret_cast<__m256i>(half));
    }
  }
}

template <size_t V>
void line(const ConvShape& s, const Plan& p, Row row, bool relu) {
  const float least = relu ? 0.0f : -std::numeric_limits<float>::infinity();
  size_t left = s.out_width;
  const auto run = [&]<size_t N>() __attribute__((always_inline)) {
    for (; left >= N; left -= N) {
      outputs<N, V>(s, p, row, least);
      row.x += N * s.stride * s.channels;
      row.y += N * s.out_channels;
    }
  };
  run.template operator()<8>();
  run.template operator()<4>();
  run.template operator()<1>();
}

}  // namespace

bool thin_forward(const ConvShape& s) {
  return has_dot_product() && s.channels > 0 && s.channels <= kMostChannels && s.kernel > 1 &&
         s.out_channels > 0 && s.out_channels % kLanes == 0;
}

size_t thin_forward_scratch(const ConvShape& s) {
  const Plan p = plan_of(s);
  return p.image * sizeof(Bf16) + p.weights * sizeof(uint32_t);
}

void thin_forward(const ConvShape& s, const Bf16* x, const float* w, const float* bias, bool relu,
                  Bf16* y, void* scratch) {
  const Plan p = plan_of(s);
  auto* const image = static_cast<Bf16*>(scratch);
  Bf16* const weights = image + p.image;
  std::memset(image, 0, p.image * sizeof(Bf16));
  pack_weights(s, p, w, weights);
  const size_t values = s.width * s.channels;
  for (size_t n = 0; n < s.batch; ++n) {
    for (size_t h = 0; h < s.height; ++h) {
      std::memcpy(image + (h + s.padding) * p.line + s.padding * s.channels,
                  x + (n * s.height + h) * values, values * sizeof(Bf16));
    }
    for (size_t h = 0; h < s.out_height; ++h) {
      for (size_t o = 0; o < s.out_channels;) {
        const bool two = o + 2 * kLanes <= s.out_channels;
        const Row row{.x = image + h * s.stride * p.line,
                      .w = reinterpret_cast<const uint32_t*>(weights) + o * s.kernel * p.pairs,
                      .bias = bias == nullptr ? nullptr : bias + o,
                      .y = y + (n * s.out_height + h) * s.out_width * s.out_channels + o};
        two ? line<2>(s, p, row, relu) : line<1>(s, p, row, relu);
        o += (two ? 2 : 1) * kLanes;
      }
    }
  }
}

#else

bool thin_forward(const ConvShape&) { return false; }
size_t thin_forward_scratch(const ConvShape&) { return 0; }
void thin_forward(const ConvShape&, const Bf16*, const float*, const float*, bool, Bf16*, void*) {
  ESPALIER_CHECK(false);
}

#endif

}  // namespace espalier::nn

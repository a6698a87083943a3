#include "espalier/nn/dot_linear.h"

#include <algorithm>
#include <cstdint>

#include "espalier/base/error.h"
#include "espalier/nn/avx512.h"
#include "espalier/nn/with_batch.h"

namespace espalier::nn {

#if defined(__x86_64__)

namespace {

using namespace avx512;

constexpr size_t kMinBatch = 2, kMaxBatch = 15;
constexpr size_t kOutputs = 2;  // that forward computes at a time
// What the samples' inputs may take of the first-level cache while all outputs go by.
constexpr size_t kForwardBytes = 12 << 10, kBackwardBytes = 16 << 10;
// Rows of weights that backward works on while it asks for the next ones.
constexpr size_t kRows = 4;

// Inputs that forward works on at a time, and backward.
size_t forward_part(const LinearShape& s) {
  const size_t step = 2 * kLanes, wanted = kForwardBytes / (s.batch * 2) / step * step;
  return std::min(rounded_up(s.in, step), std::max(step, wanted));
}
// An odd number of vectors: rows a power of two apart would push each other out of the cache.
size_t backward_part(const LinearShape& s) {
  const size_t wanted = kBackwardBytes / (s.batch * sizeof(float)), least = std::min(s.in, wanted);
  return (std::max<size_t>(least, 1) + kLanes - 1) / kLanes / 2 * 2 * kLanes + kLanes;
}
constexpr size_t pairs(size_t count) { return (count + 1) / 2; }

// Backward's working memory, in values of 4 bytes each: pairs of outputs' gradients by sample,
// pairs of samples' gradients by output, a part's inputs in pairs of samples, sums of its gradient.
struct Places {
  size_t by_outputs, by_samples, inputs, sums, end;
  explicit Places(const LinearShape& s) {
    by_outputs = 0;
    by_samples = by_outputs + rounded_up(pairs(s.out) * s.batch, kLanes);
    inputs = by_samples + rounded_up(s.out * pairs(s.batch), kLanes);
    sums = inputs + pairs(s.batch) * backward_part(s);
    end = sums + s.batch * backward_part(s);
  }
};

// low's 16 values, then high's.
ESPALIER_BF16 __m512i round_both(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_maskz_cvtne2ps_pbh(~__mmask32{0}, high, low));
}
// The sums of R outputs go on with `count` inputs, of which x holds each sample's, in bf16, behind
// those of the one before. `sums`: R × B vectors; w: at the first of these inputs.
template <size_t B, size_t R>
ESPALIER_BF16 void add_inputs(const LinearShape& s, const uint16_t* x, const float* w, size_t count,
                              const float* next, bool first, float* sums) {
  const size_t stride = rounded_up(count, 2 * kLanes);
  __m512 sum[R][B];
#pragma GCC unroll 2
  for (size_t r = 0; r < R; ++r) {
#pragma GCC unroll 15
    for (size_t b = 0; b < B; ++b)
      sum[r][b] = first ? _mm512_setzero_ps() : _mm512_load_ps(sums + (r * B + b) * kLanes);
  }
  for (size_t k = 0; k < count; k += 2 * kLanes) {
    const size_t left = count - k;
    const __mmask16 low = first_lanes(left), high = first_lanes(left > kLanes ? left - kLanes : 0);
    __m512i weights[R];
#pragma GCC unroll 2
    for (size_t r = 0; r < R; ++r) {
      const float* const row = w + r * s.in + k;
      weights[r] =
          round_both(_mm512_maskz_loadu_ps(low, row), _mm512_maskz_loadu_ps(high, row + kLanes));
      _mm_prefetch(next + r * s.in + k, _MM_HINT_T0);
      _mm_prefetch(next + r * s.in + k + kLanes, _MM_HINT_T0);
    }
#pragma GCC unroll 15
    for (size_t b = 0; b < B; ++b) {
      __m512i values = _mm512_load_si512(x + b * stride + k);
      asm("" : "+v"(values));  // or GCC loads it for each output again
#pragma GCC unroll 2
      for (size_t r = 0; r < R; ++r) sum[r][b] = add_products(sum[r][b], values, weights[r]);
    }
  }
#pragma GCC unroll 2
  for (size_t r = 0; r < R; ++r) {
#pragma GCC unroll 15
    for (size_t b = 0; b < B; ++b) _mm512_store_ps(sums + (r * B + b) * kLanes, sum[r][b]);
  }
}

// `count` values in bf16, and zeros up to a multiple of 32.
ESPALIER_BF16 void round_values(const float* from, size_t count, uint16_t* to) {
  for (size_t k = 0; k < count; k += 2 * kLanes) {
    const size_t left = count - k;
    _mm512_store_si512(
        to + k, round_both(_mm512_maskz_loadu_ps(first_lanes(left), from + k),
                           _mm512_maskz_loadu_ps(first_lanes(left > kLanes ? left - kLanes : 0),
                                                 from + k + kLanes)));
  }
}

ESPALIER_BF16 void fold_all(const float* sums, size_t outputs, size_t batch, size_t stride,
                            float* y) {
  for (size_t o = 0; o < outputs; ++o) {
    for (size_t b = 0; b < batch; ++b)
      y[b * stride + o] = fold(_mm512_load_ps(sums + (o * batch + b) * kLanes));
  }
}

template <size_t B>
void forward(const LinearShape& s, const float* x, const float* w, float* y, void* scratch) {
  const size_t part = forward_part(s);
  auto* const inputs = static_cast<uint16_t*>(scratch);
  auto* const sums = reinterpret_cast<float*>(inputs + rounded_up(B * part, 2 * kLanes));
  for (size_t begin = 0; begin < s.in; begin += part) {
    const size_t count = std::min(part, s.in - begin), stride = rounded_up(count, 2 * kLanes);
    for (size_t b = 0; b < B; ++b) round_values(x + b * s.in + begin, count, inputs + b * stride);
    const float* row = w + begin;
    size_t o = 0;
    for (; o + kOutputs <= s.out; o += kOutputs, row += kOutputs * s.in) {
      const float* const next = o + 2 * kOutputs <= s.out ? row + kOutputs * s.in : row;
      add_inputs<B, kOutputs>(s, inputs, row, count, next, begin == 0, sums + o * B * kLanes);
    }
    if (o < s.out) add_inputs<B, 1>(s, inputs, row, count, row, begin == 0, sums + o * B * kLanes);
  }
  fold_all(sums, s.out, B, s.out, y);
}

// bf16 of a, and of b in the upper half.
ESPALIER_BF16 uint32_t pair_of(float a, float b) {
  const auto bits =
      [](float value) __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) {
    const __m128bh rounded = _mm_cvtneps_pbh(_mm_set_ss(value));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(reinterpret_cast<__m128i>(rounded))) & 0xffffU;
  };
  return bits(a) | bits(b) << 16;
}

// Where one call of work_rows() is: some rows of w, of its gradient, and those that come next.
struct Strip {
  const uint32_t* x;  // pairs of samples × stride
  const uint32_t* by_outputs;
  const uint32_t* by_samples;
  float* w;
  float* gradient;
  const float* next;
  float* sums;  // B × stride
  size_t stride, count;
};

// R rows, 16 inputs at a time.
template <size_t B, size_t R, bool kInput, bool kUpdate>
ESPALIER_BF16 void work_rows(const Strip& strip, size_t in, float rate, float keep) {
  constexpr size_t kPairs = pairs(B);
  const __m512 kept = _mm512_set1_ps(keep), step = _mm512_set1_ps(-rate);
  // Into registers: what is stored could be anywhere, also in the strip.
  const uint32_t *const inputs = strip.x, *const by_outputs = strip.by_outputs,
                        *const by_samples = strip.by_samples;
  const float *const w = strip.w, *const next = strip.next;
  float *const sums = strip.sums, *const to = kUpdate ? strip.w : strip.gradient;
  const size_t stride = strip.stride, count = strip.count;
  for (size_t k = 0; k < count; k += kLanes) {
    const __mmask16 mask = first_lanes(count - k);
    __m512 weights[R + R % 2];
#pragma GCC unroll 4
    for (size_t r = 0; r < R; ++r) {
      _mm_prefetch(next + r * in + k, _MM_HINT_T0);
      weights[r] =
          kInput || kUpdate ? _mm512_maskz_loadu_ps(mask, w + r * in + k) : _mm512_setzero_ps();
    }
    if constexpr (R % 2 == 1) weights[R] = _mm512_setzero_ps();
    if constexpr (kInput) {
      __m512i pair[pairs(R)];
      for (size_t r = 0; r < pairs(R); ++r)
        pair[r] = interleave(round_both(weights[2 * r], weights[2 * r + 1]));
#pragma GCC unroll 15
      for (size_t b = 0; b < B; ++b) {
        float* const at = sums + b * stride + k;
        __m512 sum = _mm512_load_ps(at);
        for (size_t r = 0; r < pairs(R); ++r)
          sum = add_products(sum, pair[r], broadcast(by_outputs[r * B + b]));
        _mm512_store_ps(at, sum);
      }
    }
    __m512i x[kPairs];
#pragma GCC unroll 8
    for (size_t p = 0; p < kPairs; ++p) x[p] = _mm512_load_si512(inputs + p * stride + k);
#pragma GCC unroll 4
    for (size_t r = 0; r < R; ++r) {
      __m512 gradient = _mm512_setzero_ps();
#pragma GCC unroll 8
      for (size_t p = 0; p < kPairs; ++p)
        gradient = add_products(gradient, x[p], broadcast(by_samples[r * kPairs + p]));
      if constexpr (kUpdate) {
        gradient = _mm512_fmadd_ps(kept, weights[r], _mm512_mul_ps(step, gradient));
      }
      _mm512_mask_storeu_ps(to + r * in + k, mask, gradient);
    }
  }
}

// Inputs [begin, begin + count) of two samples, the second of which may be none, beside each other;
// zeros up to a multiple of 16.
ESPALIER_BF16 void pair_samples(const float* first, const float* second, size_t count,
                                uint32_t* to) {
  for (size_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 low = _mm512_maskz_loadu_ps(mask, first + i);
    const __m512 high =
        second == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, second + i);
    _mm512_store_si512(to + i, interleave(round_both(low, high)));
  }
}

ESPALIER_BF16 void pair_gradients(const LinearShape& s, const float* dy, uint32_t* by_outputs,
                                  uint32_t* by_samples) {
  const auto at = [&](size_t b, size_t o) {
    return b < s.batch && o < s.out ? dy[b * s.out + o] : 0.0f;
  };
  for (size_t o = 0; o < s.out; o += 2) {
    for (size_t b = 0; b < s.batch; ++b) *by_outputs++ = pair_of(at(b, o), at(b, o + 1));
  }
  for (size_t o = 0; o < s.out; ++o) {
    for (size_t b = 0; b < s.batch; b += 2) *by_samples++ = pair_of(at(b, o), at(b + 1, o));
  }
}

template <size_t B, bool kInput, bool kUpdate>
void backward(const LinearShape& s, const LinearBackward& d, void* scratch) {
  constexpr size_t kPairs = (B + 1) / 2;
  const Places places(s);
  auto* const values = static_cast<uint32_t*>(scratch);
  uint32_t *const by_outputs = values + places.by_outputs,
                  *const by_samples = values + places.by_samples,
                  *const inputs = values + places.inputs;
  auto* const sums = reinterpret_cast<float*>(values + places.sums);
  pair_gradients(s, d.dy, by_outputs, by_samples);
  const size_t part = backward_part(s);
  for (size_t begin = 0; begin < s.in; begin += part) {
    const size_t count = std::min(part, s.in - begin);
    for (size_t p = 0; p < kPairs; ++p) {
      const float* const first = d.x + 2 * p * s.in + begin;
      pair_samples(first, 2 * p + 1 < B ? first + s.in : nullptr, count, inputs + p * part);
    }
    if constexpr (kInput) std::fill_n(sums, B * part, 0.0f);
    for (size_t o = 0, rows = 0; o < s.out; o += rows) {
      rows = s.out - o >= kRows ? kRows : s.out - o >= 2 ? 2 : 1;
      const size_t at = o * s.in + begin;
      const Strip strip{.x = inputs,
                        .by_outputs = by_outputs + o / 2 * B,
                        .by_samples = by_samples + o * kPairs,
                        .w = d.w + at,
                        .gradient = kUpdate ? nullptr : d.gradient + at,
                        .next = d.w + at + (o + 2 * kRows <= s.out ? kRows * s.in : 0),
                        .sums = sums,
                        .stride = part,
                        .count = count};
      if (rows == kRows) {
        work_rows<B, kRows, kInput, kUpdate>(strip, s.in, d.rate, d.keep);
      } else if (rows == 2) {
        work_rows<B, 2, kInput, kUpdate>(strip, s.in, d.rate, d.keep);
      } else {
        work_rows<B, 1, kInput, kUpdate>(strip, s.in, d.rate, d.keep);
      }
    }
    if constexpr (kInput) {
      for (size_t b = 0; b < B; ++b) std::copy_n(sums + b * part, count, d.dx + b * s.in + begin);
    }
  }
}

}  // namespace

bool dot_linear(const LinearShape& s) {
  return has_dot_product() && s.batch >= kMinBatch && s.batch <= kMaxBatch && s.in > 0 && s.out > 0;
}

size_t dot_linear_scratch(const LinearShape& s) {
  const size_t forward = rounded_up(s.batch * forward_part(s), 2 * kLanes) * sizeof(uint16_t) +
                         s.out * s.batch * kLanes * sizeof(float);
  return std::max(forward, Places(s).end * sizeof(uint32_t));
}

void dot_linear_forward(const LinearShape& s, const float* x, const float* w, float* y,
                        void* scratch) {
  with_batch<kMaxBatch>(s.batch, [&]<size_t B>() { forward<B>(s, x, w, y, scratch); });
}

void dot_linear_backward(const LinearShape& s, const LinearBackward& d, void* scratch) {
  with_backward<kMaxBatch>(s.batch, d, [&]<size_t B, bool kInput, bool kUpdate>() {
    backward<B, kInput, kUpdate>(s, d, scratch);
  });
}

#else

bool dot_linear(const LinearShape&) { return false; }
size_t dot_linear_scratch(const LinearShape&) { return 0; }
void dot_linear_forward(const LinearShape&, const float*, const float*, float*, void*) {
  ESPALIER_CHECK(false);
}
void dot_linear_backward(const LinearShape&, const LinearBackward&, void*) {
  ESPALIER_CHECK(false);
}

#endif

}  // namespace espalier::nn

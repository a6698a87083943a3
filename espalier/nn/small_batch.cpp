#include "espalier/nn/small_batch.h"

#include <algorithm>
#include <dnnl.hpp>

#include "espalier/base/error.h"
#include "espalier/nn/avx512.h"
#include "espalier/nn/with_batch.h"

namespace espalier::nn {

size_t inner_block(size_t left) {
  constexpr size_t kBlock = 384;
  return left >= 2 * kBlock ? kBlock : left > kBlock ? (left + 1) / 2 : left;
}

#if defined(__x86_64__)

namespace {

using namespace avx512;

// Outside of these oneDNN's forward product sums otherwise, and more sums do not fit into
// registers.
constexpr size_t kMinBatch = 2, kMaxBatch = 15;
constexpr size_t kPair = 2;  // outputs that forward computes at a time
// Samples' inputs that stay in the first-level cache while all outputs go by.
constexpr size_t kForwardBytes = 16 << 10, kBackwardBytes = 16 << 10;
// Weights that do not stay in the second-level cache; below, oneDNN's products are as fast.
constexpr size_t kLargeBytes = 1 << 20;
// Rows of weights that backward works on while it asks for the next ones.
constexpr size_t kRows = 16;

size_t inputs_at_a_time(const LinearShape& s, size_t bytes) {
  const size_t wanted = bytes / (s.batch * sizeof(float)) / kLanes * kLanes;
  return s.in <= wanted ? s.in : std::max(kLanes, wanted);
}
size_t padded(size_t count) { return rounded_up(count, kLanes); }

// Behind each other: dy by outputs, then the sums of an input gradient's block.
size_t turned_values(const LinearShape& s) { return padded(s.batch * s.out); }

}  // namespace

size_t small_batch_scratch(const LinearShape& s) {
  const size_t part = inputs_at_a_time(s, kForwardBytes);
  const size_t forward =
      s.batch * padded(part) + (part < s.in ? (s.out + kPair) * s.batch * kLanes : 0);
  const size_t backward = turned_values(s) + s.batch * padded(inputs_at_a_time(s, kBackwardBytes));
  return std::max(forward, backward) * sizeof(float);
}

bool small_batch(const LinearShape& s) {
  return s.batch >= kMinBatch && s.batch <= kMaxBatch && s.in > 0 && s.out > 0 &&
         dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core;
}
bool worth_small_batch(const LinearShape& s) {
  return small_batch(s) && s.in * s.out * sizeof(float) >= kLargeBytes;
}

namespace {

// The sums of R outputs go on with inputs [begin, end), of which x holds each sample's behind those
// of the one before; `sums`: R × B vectors, zero at first. The last part ends in y.
template <size_t B, size_t R>
ESPALIER_AVX512 void add_inputs(const LinearShape& s, const float* x, const float* w, size_t begin,
                                size_t end, const float* next, float* sums, float* y) {
  const size_t stride = padded(end - begin);
  __m512 sum[R][B];
#pragma GCC unroll 2
  for (size_t r = 0; r < R; ++r) {
#pragma GCC unroll 15
    for (size_t b = 0; b < B; ++b)
      sum[r][b] = begin == 0 ? _mm512_setzero_ps() : _mm512_load_ps(sums + (r * B + b) * kLanes);
  }
  size_t k = begin;
  for (; k + kLanes <= end; k += kLanes) {
    __m512 weights[R];
#pragma GCC unroll 2
    for (size_t r = 0; r < R; ++r) {
      weights[r] = _mm512_loadu_ps(w + r * s.in + k);
      if (next != nullptr) _mm_prefetch(next + r * s.in + k, _MM_HINT_T0);
    }
#pragma GCC unroll 15
    for (size_t b = 0; b < B; ++b) {
      __m512 values = _mm512_load_ps(x + b * stride + k - begin);
      asm("" : "+v"(values));  // or GCC loads it for each output again
#pragma GCC unroll 2
      for (size_t r = 0; r < R; ++r) sum[r][b] = _mm512_fmadd_ps(values, weights[r], sum[r][b]);
    }
  }
  if (k < end) {
    const __mmask16 mask = first_lanes(end - k);
#pragma GCC unroll 15
    for (size_t b = 0; b < B; ++b) {
      const __m512 values = _mm512_maskz_load_ps(mask, x + b * stride + k - begin);
#pragma GCC unroll 2
      for (size_t r = 0; r < R; ++r) {
        sum[r][b] =
            _mm512_fmadd_ps(values, _mm512_maskz_loadu_ps(mask, w + r * s.in + k), sum[r][b]);
      }
    }
  }
#pragma GCC unroll 2
  for (size_t r = 0; r < R; ++r) {
#pragma GCC unroll 15
    for (size_t b = 0; b < B; ++b) {
      if (end < s.in) {
        _mm512_store_ps(sums + (r * B + b) * kLanes, sum[r][b]);
      } else {
        y[b * s.out + r] = fold(sum[r][b]);
      }
    }
  }
}

template <size_t B>
void forward(const LinearShape& s, const float* x, const float* w, float* y, float* scratch) {
  const size_t part = inputs_at_a_time(s, kForwardBytes);
  float *const inputs = scratch, *const sums = scratch + B * padded(part);
  for (size_t begin = 0; begin < s.in; begin += part) {
    const size_t end = std::min(s.in, begin + part);
    // Side by side: rows a power of two apart would push each other out of the cache.
    for (size_t b = 0; b < B; ++b)
      std::copy(x + b * s.in + begin, x + b * s.in + end, inputs + b * padded(end - begin));
    size_t o = 0;
    for (; o + kPair <= s.out; o += kPair) {
      const float* const next = o + 2 * kPair <= s.out ? w + (o + kPair) * s.in : nullptr;
      add_inputs<B, kPair>(s, inputs, w + o * s.in, begin, end, next, sums + o * B * kLanes, y + o);
    }
    if (o < s.out)
      add_inputs<B, 1>(s, inputs, w + o * s.in, begin, end, nullptr, sums + o * B * kLanes, y + o);
  }
}

// Where one call of work_rows() is: `rows` rows of w and of its gradient from `place` on, and as
// many that come next.
struct Strip {
  const float* x;   // B rows of `in` values, from this strip's first input on
  const float* dy;  // rows × B
  const float* w;
  float* to;  // updated weights, or gradient
  const float* next;
  float* sums;  // B × stride; null: no input gradient
  size_t stride, rows;
};

// 16 inputs, or fewer (mask), of some rows: the samples' inputs and their gradients' sums stay in
// registers.
template <size_t B, bool kInput, bool kUpdate>
ESPALIER_AVX512 void work_rows(const Strip& strip, size_t in, __mmask16 mask, float rate,
                               float keep) {
  __m512 x[B], sum[B];
#pragma GCC unroll 15
  for (size_t b = 0; b < B; ++b) {
    x[b] = _mm512_maskz_loadu_ps(mask, strip.x + b * in);
    if constexpr (kInput) sum[b] = _mm512_load_ps(strip.sums + b * strip.stride);
  }
  const __m512 kept = _mm512_set1_ps(keep), step = _mm512_set1_ps(-rate);
  const float *dy = strip.dy, *next = strip.next, *row = strip.w;
  float* to = strip.to;
  for (size_t r = strip.rows; r > 0; --r, dy += B, row += in, next += in, to += in) {
    _mm_prefetch(next, _MM_HINT_T1);
    const __m512 weights =
        kInput || kUpdate ? _mm512_maskz_loadu_ps(mask, row) : _mm512_setzero_ps();
    __m512 gradient = _mm512_setzero_ps();
#pragma GCC unroll 15
    for (size_t b = 0; b < B; ++b) {
      const __m512 out = _mm512_set1_ps(dy[b]);
      if constexpr (kInput) sum[b] = _mm512_fmadd_ps(out, weights, sum[b]);
      gradient = _mm512_fmadd_ps(out, x[b], gradient);
    }
    if constexpr (kUpdate) {
      _mm512_mask_storeu_ps(to, mask,
                            _mm512_fmadd_ps(kept, weights, _mm512_mul_ps(step, gradient)));
    } else {
      _mm512_mask_storeu_ps(to, mask, gradient);
    }
  }
  if constexpr (kInput) {
#pragma GCC unroll 15
    for (size_t b = 0; b < B; ++b) _mm512_store_ps(strip.sums + b * strip.stride, sum[b]);
  }
}

template <size_t B, bool kInput, bool kUpdate>
void backward(const LinearShape& s, const LinearBackward& d, float* scratch) {
  float* const dy = scratch;
  const float* const w = kUpdate && d.from != nullptr ? d.from : d.w;
  float* const to = kUpdate ? d.w : d.gradient;
  for (size_t o = 0; o < s.out; ++o) {
    for (size_t b = 0; b < B; ++b) dy[o * B + b] = d.dy[b * s.out + o];
  }
  float* const sums = scratch + turned_values(s);
  const size_t part = inputs_at_a_time(s, kBackwardBytes), stride = padded(part);
  for (size_t i0 = 0; i0 < s.in; i0 += part) {
    const size_t i1 = std::min(s.in, i0 + part);
    for (size_t block = 0; block < s.out;) {
      const size_t block_end = block + inner_block(s.out - block);
      if (kInput) std::fill_n(sums, B * stride, 0.0f);
      for (size_t o = block; o < block_end; o += kRows) {
        const size_t rows = std::min(kRows, block_end - o);
        for (size_t i = i0; i < i1; i += kLanes) {
          const Strip strip{.x = d.x + i,
                            .dy = dy + o * B,
                            .w = w + o * s.in + i,
                            .to = to + o * s.in + i,
                            .next = w + (o + 2 * kRows <= s.out ? o + kRows : o) * s.in + i,
                            .sums = sums + (i - i0),
                            .stride = stride,
                            .rows = rows};
          work_rows<B, kInput, kUpdate>(strip, s.in, first_lanes(i1 - i), d.rate, d.keep);
        }
      }
      if constexpr (kInput) {
        for (size_t b = 0; b < B; ++b) {
          float* const dx = d.dx + b * s.in;
          const float* const from = sums + b * stride;
          for (size_t i = i0; i < i1; ++i) dx[i] = block == 0 ? from[i - i0] : dx[i] + from[i - i0];
        }
      }
      block = block_end;
    }
  }
}

}  // namespace

void small_batch_forward(const LinearShape& s, const float* x, const float* w, float* y,
                         float* scratch) {
  with_batch<kMaxBatch>(s.batch, [&]<size_t B>() { forward<B>(s, x, w, y, scratch); });
}

void small_batch_backward(const LinearShape& s, const LinearBackward& d, float* scratch) {
  with_backward<kMaxBatch>(s.batch, d, [&]<size_t B, bool kInput, bool kUpdate>() {
    backward<B, kInput, kUpdate>(s, d, scratch);
  });
}

#else

bool small_batch(const LinearShape&) { return false; }
bool worth_small_batch(const LinearShape&) { return false; }
size_t small_batch_scratch(const LinearShape&) { return 0; }
void small_batch_forward(const LinearShape&, const float*, const float*, float*, float*) {
  ESPALIER_CHECK(false);
}
void small_batch_backward(const LinearShape&, const LinearBackward&, float*) {
  ESPALIER_CHECK(false);
}

#endif

}  // namespace espalier::nn

#include "espalier/nn/sparse_dot.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/nn/avx512.h"
#include "espalier/nn/sparse_lists.h"

namespace espalier::nn {

#if defined(__x86_64__)

namespace {

using namespace avx512;
using Entry = SparseConvScratch::Entry;

// A kernel row of kernel·channels values is worked on in blocks of 32, of which the last may be
// half beyond the row: it is read (kSpare) and not stored.
constexpr size_t kBlock = 32, kSpare = kBlock / 2;
// Blocks at a time: twice as many vectors of sums stay in registers.
constexpr size_t kMostBlocks = 8;
// The weights that gather() works on, of all output channels, should stay in the first-level cache.
constexpr size_t kGatherBytes = 24 << 10;

size_t blocks_of(const SparseConvShape& s) {
  return (s.kernel * padded_channels(s) + kBlock - 1) / kBlock;
}
size_t image_size(const SparseConvShape& s) {
  return (s.height + 2 * s.padding) * (s.width + 2 * s.padding) * padded_channels(s);
}
size_t rows_of(const SparseConvShape& s) {
  return band_rows(s, (s.width + 2 * s.padding) * padded_channels(s) * sizeof(Bf16));
}

// An entry without a gradient behind the last one, beside which it stands in a pair.
ESPALIER_INLINE void make_even(Entry* entries, uint32_t count) {
  if (count % 2 != 0) entries[count] = {entries[count - 1].offset, 0.0f};
}

// The gradients are bf16 values.
ESPALIER_INLINE uint32_t gradients_of(const Entry* pair) {
  return std::bit_cast<uint32_t>(pair[0].gradient) >> 16 |
         (std::bit_cast<uint32_t>(pair[1].gradient) & 0xffff0000U);
}

// out[v] += Σ gradient·from[offset + v] for R blocks v, the last of them half when `half`.
template <size_t R>
ESPALIER_BF16 ESPALIER_INLINE void add_pairs(const Entry* entries, size_t count, const Bf16* from,
                                             float* out, bool half) {
  // Of four values beside each other in a quarter of a block, the first and the second four.
  __m512 low[R], high[R];
  for (size_t r = 0; r < R; ++r) low[r] = high[r] = _mm512_setzero_ps();
  for (const Entry* const end = entries + count; entries < end; entries += 2) {
    const Bf16* const first = from + entries[0].offset;
    const Bf16* const second = from + entries[1].offset;
    const __m512i gradients = broadcast(gradients_of(entries));
    for (size_t r = 0; r < R; ++r) {
      const __m512i a = _mm512_loadu_si512(first + r * kBlock),
                    b = _mm512_loadu_si512(second + r * kBlock);
      low[r] = add_products(low[r], _mm512_unpacklo_epi16(a, b), gradients);
      high[r] = add_products(high[r], _mm512_unpackhi_epi16(a, b), gradients);
    }
  }
  alignas(64) static constexpr uint32_t kFirst[16] = {0, 1, 2, 3, 16, 17, 18, 19,
                                                      4, 5, 6, 7, 20, 21, 22, 23},
                                        kSecond[16] = {8,  9,  10, 11, 24, 25, 26, 27,
                                                       12, 13, 14, 15, 28, 29, 30, 31};
  const __m512i in_first = _mm512_load_si512(kFirst), in_second = _mm512_load_si512(kSecond);
  for (size_t r = 0; r < R; ++r, out += kBlock) {
    const __m512 one = _mm512_permutex2var_ps(low[r], in_first, high[r]),
                 two = _mm512_permutex2var_ps(low[r], in_second, high[r]);
    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), one));
    if (half && r + 1 == R) return;
    _mm512_storeu_ps(out + kLanes, _mm512_add_ps(_mm512_loadu_ps(out + kLanes), two));
  }
}

// A part of one of a kernel's rows, in a band.
struct Part {
  const SparseConvShape& shape;
  SparseConvScratch& scratch;
  size_t begin, end;  // pooled rows
  size_t row, value;  // the kernel row, and the part's first value in it
  bool half;
};

// The band's share of the weight gradient.
template <size_t R>
ESPALIER_BF16 void walk(const Part& p, float* weight_gradient) {
  const SparseConvShape& s = p.shape;
  const size_t stride = padded_channels(s), line = (s.width + 2 * s.padding) * stride,
               row = s.kernel * stride, room = list_room(s, p.end - p.begin);
  const Bf16* const input = p.scratch.rounded_input.data() + p.row * line + p.value;
  for (size_t c = 0; c < s.out_channels; ++c) {
    add_pairs<R>(p.scratch.entries.data() + c * room, p.scratch.counts[c], input,
                 weight_gradient + (c * s.kernel + p.row) * row + p.value, p.half);
  }
}

// The input gradient that the band's outputs give.
template <size_t R>
ESPALIER_BF16 void gather(const Part& p, float* input_gradient) {
  const SparseConvShape& s = p.shape;
  const size_t stride = padded_channels(s), line = (s.width + 2 * s.padding) * stride,
               places = s.window * s.window, room = position_room(s);
  const Bf16* const weights =
      p.scratch.rounded_weights.data() + p.row * s.kernel * stride + p.value;
  const Entry* entries = p.scratch.position_entries.data();
  const uint32_t* counts = p.scratch.position_counts.data();
  for (size_t px = 0; px < s.pooled_width; ++px) {
    for (size_t py = p.begin; py < p.end; ++py) {
      for (size_t place = 0; place < places; ++place, entries += room) {
        const size_t y = py * s.window + place / s.window + p.row,
                     x = px * s.window + place % s.window;
        add_pairs<R>(entries, *counts++, weights, input_gradient + y * line + x * stride + p.value,
                     p.half);
      }
    }
  }
}

using Work = void (*)(const Part&, float*);
template <size_t... kBlocks>
constexpr std::array<Work, kMostBlocks> walks(std::index_sequence<kBlocks...>) {
  return {walk<kBlocks + 1>...};
}
template <size_t... kBlocks>
constexpr std::array<Work, kMostBlocks> gathers(std::index_sequence<kBlocks...>) {
  return {gather<kBlocks + 1>...};
}
constexpr auto kWalks = walks(std::make_index_sequence<kMostBlocks>());
constexpr auto kGathers = gathers(std::make_index_sequence<kMostBlocks>());

// `work` for all kernel rows, in even parts of at most `most` blocks.
void in_parts(const SparseConvShape& s, SparseConvScratch& scratch, size_t begin, size_t end,
              size_t most, const std::array<Work, kMostBlocks>& work, float* out) {
  const size_t row = s.kernel * padded_channels(s), blocks = blocks_of(s),
               parts = (blocks + most - 1) / most, part = (blocks + parts - 1) / parts;
  for (size_t k = 0; k < s.kernel; ++k) {
    for (size_t block = 0; block < blocks; block += part) {
      const size_t count = std::min(part, blocks - block);
      const bool half = block + count == blocks && row % kBlock != 0;
      work[count - 1]({s, scratch, begin, end, k, block * kBlock, half}, out);
    }
  }
}

template <bool kPositions>
ESPALIER_BF16 void list_band(const SparseConvShape& s, const SparseConvData<Bf16>& d, size_t n,
                             size_t begin, size_t end, SparseConvScratch& scratch) {
  if (d.y != nullptr) {
    list_outputs<true, kPositions>(s, d, n, begin, end, scratch);
  } else {
    list_outputs<false, kPositions>(s, d, n, begin, end, scratch);
  }
  const size_t room = list_room(s, end - begin);
  for (size_t c = 0; c < s.out_channels; ++c) {
    Entry* const entries = scratch.entries.data() + c * room;
    const uint32_t count = scratch.counts[c];
    scratch.walked += count;
    if (d.bias_gradient != nullptr) {
      for (size_t i = 0; i < count; ++i) d.bias_gradient[c] += entries[i].gradient;
    }
    make_even(entries, count);
  }
  if (!kPositions) return;
  for (size_t i = 0; i < num_positions(s, end - begin); ++i) {
    make_even(scratch.position_entries.data() + i * position_room(s), scratch.position_counts[i]);
  }
}

ESPALIER_BF16 void round_weights(const float* weights, size_t count, Bf16* to) {
  for (size_t i = 0; i < count; ++i) put(to[i], weights[i]);
}
ESPALIER_BF16 void copy_image(const SparseConvShape& s, const Bf16* image, Bf16* padded) {
  copy_rows(s, image, padded);
}
ESPALIER_BF16 void take_image(const SparseConvShape& s, const float* padded, Bf16* image) {
  take_rows(s, padded, image);
}

}  // namespace

bool has_sparse_dot() { return has_dot_product(); }

void sparse_dot_backward(const SparseConvShape& s, const SparseConvData<Bf16>& d,
                         SparseConvScratch& scratch) {
  const size_t weights = s.out_channels * s.kernel * s.kernel * padded_channels(s),
               rows = rows_of(s), image = s.height * s.width * s.channels;
  // The padding and what stands behind the last value stay zero.
  scratch.rounded_input.assign(image_size(s) + kSpare, Bf16{});
  scratch.entries.resize(s.out_channels * list_room(s, rows));
  scratch.counts.resize(s.out_channels);
  if (d.dx != nullptr) {
    scratch.input_gradient.resize(image_size(s));
    scratch.rounded_weights.resize(weights + kSpare);
    round_weights(d.weights, weights, scratch.rounded_weights.data());
    scratch.position_entries.resize(num_positions(s, rows) * position_room(s));
    scratch.position_counts.resize(num_positions(s, rows));
  }
  scratch.walked = 0;
  std::fill(d.weight_gradient, d.weight_gradient + weights, 0.0f);
  if (d.bias_gradient != nullptr)
    std::fill(d.bias_gradient, d.bias_gradient + s.out_channels, 0.0f);
  const size_t most =
      std::clamp<size_t>(kGatherBytes / (s.out_channels * kBlock * sizeof(Bf16)), 2, kMostBlocks);
  for (size_t n = 0; n < s.batch; ++n) {
    copy_image(s, d.x + n * image, scratch.rounded_input.data());
    if (d.dx != nullptr)
      std::fill(scratch.input_gradient.begin(), scratch.input_gradient.end(), 0.0f);
    for (size_t begin = 0; begin < s.pooled_height; begin += rows) {
      const size_t end = std::min(s.pooled_height, begin + rows);
      if (d.dx != nullptr) {
        list_band<true>(s, d, n, begin, end, scratch);
      } else {
        list_band<false>(s, d, n, begin, end, scratch);
      }
      in_parts(s, scratch, begin, end, kMostBlocks, kWalks, d.weight_gradient);
      if (d.dx != nullptr)
        in_parts(s, scratch, begin, end, most, kGathers, scratch.input_gradient.data());
    }
    if (d.dx != nullptr) take_image(s, scratch.input_gradient.data(), d.dx + n * image);
  }
}

size_t sparse_dot_scratch_bytes(const SparseConvShape& s, bool dx) {
  const size_t rows = rows_of(s);
  size_t bytes = (image_size(s) + kSpare) * sizeof(Bf16) +
                 s.out_channels * (list_room(s, rows) * sizeof(Entry) + sizeof(uint32_t));
  if (dx) {
    bytes += image_size(s) * sizeof(float) +
             (s.out_channels * s.kernel * s.kernel * padded_channels(s) + kSpare) * sizeof(Bf16) +
             num_positions(s, rows) * (position_room(s) * sizeof(Entry) + sizeof(uint32_t));
  }
  return bytes;
}

#else

bool has_sparse_dot() { return false; }
void sparse_dot_backward(const SparseConvShape&, const SparseConvData<Bf16>&, SparseConvScratch&) {
  ESPALIER_CHECK(false, "this processor has no dot product of bf16");
}
size_t sparse_dot_scratch_bytes(const SparseConvShape&, bool) { return 0; }

#endif

}  // namespace espalier::nn

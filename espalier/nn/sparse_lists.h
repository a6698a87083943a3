#pragma once

#include <algorithm>

#include "espalier/base/simd.h"
#include "espalier/nn/sparse_conv.h"

// What both ways of the sparse backward pass share: included by sparse_conv.cpp and sparse_dot.cpp
// alone.
namespace espalier::nn {

// A band of the input that is walked for all output channels should stay in the first-level cache.
constexpr size_t kBandBytes = 24 << 10;
// Pooled rows worked on at a time, for padded lines of so many bytes.
inline size_t band_rows(const SparseConvShape& s, size_t line_bytes) {
  return std::clamp<size_t>(kBandBytes / (line_bytes * s.window), 1, s.pooled_height);
}
// A list's room has one entry more than it can have, for an odd list to be made even (sparse_dot).
inline size_t list_room(const SparseConvShape& s, size_t rows) { return rows * s.pooled_width + 1; }
inline size_t position_room(const SparseConvShape& s) { return s.out_channels + 1; }
// Positions of the convolution's output in a band.
inline size_t num_positions(const SparseConvShape& s, size_t rows) {
  return s.window * s.window * rows * s.pooled_width;
}

// The outputs with a gradient among pooled rows [begin, end) of image n, one list per output
// channel. With kPositions once more, one list per position: by pooled column, row, and place in
// the window; an entry's offset is that of its channel's weights.
template <bool kRelu, bool kPositions, class T>
ESPALIER_INLINE void list_outputs(const SparseConvShape& s, const SparseConvData<T>& d, size_t n,
                                  size_t begin, size_t end, SparseConvScratch& scratch) {
  using Entry = SparseConvScratch::Entry;
  const size_t padded = s.width + 2 * s.padding, room = list_room(s, end - begin),
               stride = padded_channels(s), filter = s.kernel * s.kernel * stride,
               places = s.window * s.window;
  std::fill(scratch.counts.begin(), scratch.counts.end(), 0U);
  Entry* at_position = scratch.position_entries.data();
  uint32_t* position_counts = scratch.position_counts.data();
  // Down the columns: the taps of windows below each other do not overlap row by row, so that
  // spreading one does not wait for the stores of the one before.
  for (size_t px = 0; px < s.pooled_width; ++px) {
    for (size_t py = begin; py < end; ++py) {
      const size_t at = ((n * s.pooled_height + py) * s.pooled_width + px) * s.out_channels;
      uint32_t place[256];  // offset of each position in the window
      for (size_t k = 0; k < places; ++k) {
        place[k] = static_cast<uint32_t>(
            ((py * s.window + k / s.window) * padded + px * s.window + k % s.window) * stride);
      }
      if (kPositions) std::fill_n(position_counts, places, 0U);
      for (size_t c = 0; c < s.out_channels; ++c) {
        const float gradient = to_float(d.dy[at + c]);
        const uint32_t counts = (!kRelu || to_float(d.y[at + c]) > 0) && gradient != 0
                                    ? 1U
                                    : 0U;  // without a branch: it cannot be predicted
        const size_t chosen = d.argmax[at + c];
        uint32_t& count = scratch.counts[c];
        scratch.entries[c * room + count] = {place[chosen], gradient};
        count += counts;
        if (kPositions) {
          uint32_t& position_count = position_counts[chosen];
          at_position[chosen * position_room(s) + position_count] = {
              static_cast<uint32_t>(c * filter), gradient};
          position_count += counts;
        }
      }
      if (kPositions) {
        position_counts += places;
        at_position += places * position_room(s);
      }
    }
  }
}

// An image between its padding, with the channels rounded up to whole vectors.
template <class T, class To>
ESPALIER_INLINE void copy_rows(const SparseConvShape& s, const T* image, To* padded) {
  const size_t stride = padded_channels(s), line = (s.width + 2 * s.padding) * stride;
  for (size_t y = 0; y < s.height; ++y) {
    To* to = padded + (y + s.padding) * line + s.padding * stride;
    const T* from = image + y * s.width * s.channels;
    if (stride == s.channels) {
      for (size_t i = 0; i < s.width * stride; ++i) put(to[i], to_float(from[i]));
      continue;
    }
    for (size_t x = 0; x < s.width; ++x) {
      for (size_t c = 0; c < s.channels; ++c)
        put(to[x * stride + c], to_float(from[x * s.channels + c]));
    }
  }
}

// The image's part of the padded input gradient.
template <class T>
ESPALIER_INLINE void take_rows(const SparseConvShape& s, const float* padded, T* image) {
  const size_t stride = padded_channels(s), line = (s.width + 2 * s.padding) * stride,
               inside = s.width * s.channels;
  for (size_t y = 0; y < s.height; ++y) {
    const float* from = padded + (y + s.padding) * line + s.padding * stride;
    T* to = image + y * inside;
    if (stride == s.channels) {
      for (size_t i = 0; i < inside; ++i) put(to[i], from[i]);
      continue;
    }
    for (size_t x = 0; x < s.width; ++x) {
      for (size_t c = 0; c < s.channels; ++c) put(to[x * s.channels + c], from[x * stride + c]);
    }
  }
}

}  // namespace espalier::nn

#include "espalier/nn/sparse_conv.h"

#include <algorithm>
#include <type_traits>

#include "espalier/nn/lanes.h"

namespace espalier::nn {

size_t padded_channels(const SparseConvShape& shape) {
  return (shape.channels + kLanes - 1) / kLanes * kLanes;
}

namespace {

using Entry = SparseConvScratch::Entry;

// The taps of one kernel row are contiguous in the padded input: `kernel·channels` values, taken in
// parts of up to kPart vectors.
constexpr size_t kPart = 10;
// As many sums as stay in registers while a list is walked.
template <class Lanes>
constexpr size_t kSums = std::min(kPart, kLanesInRegisters<Lanes> * 3 / 4);
// A band of the input that is walked for all output channels should stay in the first-level cache.
constexpr size_t kBandBytes = 24 << 10;
// So should the weights that gather_band() works on, of all output channels.
constexpr size_t kGatherBytes = 24 << 10;

// In fp32 the order of the sums is that of the channels, as it always was.
template <class T>
constexpr bool kGathers = !std::is_same_v<T, float>;

// What is read at constant distances from `pointer` is addressed so; GCC would keep a register for
// each distance, more than there are.
template <class T>
ESPALIER_INLINE void one_address(T*& pointer) {
  asm("" : "+r"(pointer));
}

// sum[v] += Σ gradient·input[offset + v] for R vectors v.
template <class Lanes, size_t R>
ESPALIER_INLINE void add_taps(const Entry* entries, size_t count, const float* input, float* sum) {
  Lanes part[R];
  for (size_t r = 0; r < R; ++r) load(sum + r * kLanes, part[r]);
  for (size_t i = 0; i < count; ++i) {
    const float* at = input + entries[i].offset;
    one_address(at);
    const Lanes gradient = broadcast<Lanes>(entries[i].gradient);
    for (size_t r = 0; r < R; ++r) {
      Lanes value;
      load(at + r * kLanes, value);
      part[r] += gradient * value;
    }
  }
  for (size_t r = 0; r < R; ++r) store(part[r], sum + r * kLanes);
}

// out[offset + v] += gradient·weights[v] for R vectors v.
template <class Lanes, size_t R>
ESPALIER_INLINE void spread_taps(const Entry* entries, size_t count, const float* weights,
                                 float* out) {
  Lanes part[R];
  for (size_t r = 0; r < R; ++r) load(weights + r * kLanes, part[r]);
  for (size_t i = 0; i < count; ++i) {
    float* at = out + entries[i].offset;
    one_address(at);
    const Lanes gradient = broadcast<Lanes>(entries[i].gradient);
    for (size_t r = 0; r < R; ++r) {
      Lanes value;
      load(at + r * kLanes, value);
      value += gradient * part[r];
      store(value, at + r * kLanes);
    }
  }
}

template <class Call>
ESPALIER_INLINE void with_vectors(size_t vectors, Call call) {
  switch (vectors) {
    case 1:
      return call.template operator()<1>();
    case 2:
      return call.template operator()<2>();
    case 3:
      return call.template operator()<3>();
    case 4:
      return call.template operator()<4>();
    case 5:
      return call.template operator()<5>();
    case 6:
      return call.template operator()<6>();
    case 7:
      return call.template operator()<7>();
    case 8:
      return call.template operator()<8>();
    case 9:
      return call.template operator()<9>();
    default:
      return call.template operator()<kPart>();
  }
}

// call.template operator()<R>(v) for parts of at most kMost vectors that start at value v.
template <size_t kMost, class Call>
ESPALIER_INLINE void for_parts(size_t vectors, Call call) {
  for (size_t v = 0; v < vectors; v += kMost) {
    with_vectors(
        std::min(kMost, vectors - v), [&]<size_t R>() __attribute__((always_inline)) {
          call.template operator()<R>(v * kLanes);
        });
  }
}

// The outputs with a gradient among pooled rows [begin, end) of image n, one list per output
// channel. With kPositions once more, one list per position: by pooled column, row, and place in
// the window; an entry's offset is that of its channel's weights.
template <bool kRelu, bool kPositions, class T>
ESPALIER_INLINE void list_outputs(const SparseConvShape& s, const SparseConvData<T>& d, size_t n,
                                  size_t begin, size_t end, SparseConvScratch& scratch) {
  const size_t padded = s.width + 2 * s.padding, capacity = (end - begin) * s.pooled_width,
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
        scratch.entries[c * capacity + count] = {place[chosen], gradient};
        count += counts;
        if (kPositions) {
          uint32_t& position_count = position_counts[chosen];
          at_position[chosen * s.out_channels + position_count] = {
              static_cast<uint32_t>(c * filter), gradient};
          position_count += counts;
        }
      }
      if (kPositions) {
        position_counts += places;
        at_position += places * s.out_channels;
      }
    }
  }
}

// Adds to the input's gradient what the band's outputs give it. Where spread_taps() loads and
// stores an output for each product, this does so once for all channels that have their gradient at
// one position, and adds up in another order.
template <class Lanes, class T>
ESPALIER_INLINE void gather_band(const SparseConvShape& s, const SparseConvData<T>& d, size_t begin,
                                 size_t end, SparseConvScratch& scratch) {
  const size_t stride = padded_channels(s), line = (s.width + 2 * s.padding) * stride;
  const size_t row = s.kernel * stride, places = s.window * s.window;
  // Of a kernel row as many vectors at a time as let the weights of all channels stay in the cache.
  const size_t vectors = row / kLanes,
               most = std::clamp<size_t>(kGatherBytes / (s.out_channels * kLanes * sizeof(float)),
                                         3, kPart),
               parts = (vectors + most - 1) / most, part = (vectors + parts - 1) / parts;
  for (size_t k = 0; k < s.kernel; ++k) {
    for (size_t v = 0; v < vectors; v += part) {
      with_vectors(
          std::min(part, vectors - v), [&]<size_t R>() __attribute__((always_inline)) {
            const float* const weights = d.weights + k * row + v * kLanes;
            const Entry* entries = scratch.position_entries.data();
            const uint32_t* counts = scratch.position_counts.data();
            for (size_t px = 0; px < s.pooled_width; ++px) {
              for (size_t py = begin; py < end; ++py) {
                for (size_t place = 0; place < places; ++place, entries += s.out_channels) {
                  const size_t y = py * s.window + place / s.window + k,
                               x = px * s.window + place % s.window;
                  add_taps<Lanes, R>(
                      entries, *counts++, weights,
                      scratch.input_gradient.data() + y * line + x * stride + v * kLanes);
                }
              }
            }
          });
    }
  }
}

template <class T>
ESPALIER_INLINE void copy_rows(const SparseConvShape& s, const T* image, float* padded) {
  const size_t stride = padded_channels(s), line = (s.width + 2 * s.padding) * stride;
  for (size_t y = 0; y < s.height; ++y) {
    float* to = padded + (y + s.padding) * line + s.padding * stride;
    const T* from = image + y * s.width * s.channels;
    if (stride == s.channels) {
      for (size_t i = 0; i < s.width * stride; ++i) to[i] = to_float(from[i]);
      continue;
    }
    for (size_t x = 0; x < s.width; ++x) {
      for (size_t c = 0; c < s.channels; ++c)
        to[x * stride + c] = to_float(from[x * s.channels + c]);
    }
  }
}

// Pooled rows worked on at a time, for padded lines of `line` values.
size_t band_rows(const SparseConvShape& s, size_t line) {
  return std::clamp<size_t>(kBandBytes / (line * sizeof(float) * s.window), 1, s.pooled_height);
}
size_t num_entries(const SparseConvShape& s, size_t rows) {
  return s.out_channels * rows * s.pooled_width + 1;
}
// Positions of the convolution's output in a band.
size_t num_positions(const SparseConvShape& s, size_t rows) {
  return s.window * s.window * rows * s.pooled_width;
}
size_t num_position_entries(const SparseConvShape& s, size_t rows) {
  return s.out_channels * num_positions(s, rows) + 1;
}

template <class Lanes, class T>
ESPALIER_INLINE void backward(const SparseConvShape& s, const SparseConvData<T>& d,
                              SparseConvScratch& scratch) {
  const size_t stride = padded_channels(s), line = (s.width + 2 * s.padding) * stride,
               image = (s.height + 2 * s.padding) * line;
  const size_t row = s.kernel * stride, filter = s.kernel * row;
  const size_t rows = band_rows(s, line);
  scratch.input.assign(image, 0.0f);  // the padding stays zero
  const bool gathers = kGathers<T> && d.dx != nullptr;
  if (d.dx != nullptr) {
    scratch.input_gradient.resize(image);
    if (gathers) {
      scratch.position_entries.resize(num_position_entries(s, rows));
      scratch.position_counts.resize(num_positions(s, rows));
    }
  }
  scratch.entries.resize(num_entries(s, rows));
  scratch.counts.resize(s.out_channels);
  scratch.walked = 0;
  std::fill(d.weight_gradient, d.weight_gradient + s.out_channels * filter, 0.0f);
  if (d.bias_gradient != nullptr)
    std::fill(d.bias_gradient, d.bias_gradient + s.out_channels, 0.0f);

  for (size_t n = 0; n < s.batch; ++n) {
    copy_rows(s, d.x + n * s.height * s.width * s.channels, scratch.input.data());
    if (d.dx != nullptr)
      std::fill(scratch.input_gradient.begin(), scratch.input_gradient.end(), 0.0f);
    for (size_t begin = 0; begin < s.pooled_height; begin += rows) {
      const size_t end = std::min(s.pooled_height, begin + rows);
      if (d.y != nullptr) {
        gathers ? list_outputs<true, kGathers<T>>(s, d, n, begin, end, scratch)
                : list_outputs<true, false>(s, d, n, begin, end, scratch);
      } else {
        gathers ? list_outputs<false, kGathers<T>>(s, d, n, begin, end, scratch)
                : list_outputs<false, false>(s, d, n, begin, end, scratch);
      }
      for (size_t c = 0; c < s.out_channels; ++c) {
        const Entry* entries = scratch.entries.data() + c * (end - begin) * s.pooled_width;
        const size_t count = scratch.counts[c];
        scratch.walked += count;
        if (d.bias_gradient != nullptr) {
          for (size_t i = 0; i < count; ++i) d.bias_gradient[c] += entries[i].gradient;
        }
        for (size_t k = 0; k < s.kernel; ++k) {
          const size_t in_image = k * line, in_filter = c * filter + k * row;
          for_parts<kSums<Lanes>>(
              row / kLanes, [&]<size_t R>(size_t v) __attribute__((always_inline)) {
                add_taps<Lanes, R>(entries, count, scratch.input.data() + in_image + v,
                                   d.weight_gradient + in_filter + v);
              });
          if (kGathers<T> || d.dx == nullptr) continue;
          for_parts<kPart>(
              row / kLanes, [&]<size_t R>(size_t v) __attribute__((always_inline)) {
                spread_taps<Lanes, R>(entries, count, d.weights + in_filter + v,
                                      scratch.input_gradient.data() + in_image + v);
              });
        }
      }
      if (gathers) gather_band<Lanes>(s, d, begin, end, scratch);
    }
    if (d.dx == nullptr) continue;
    const size_t inside = s.width * s.channels;
    for (size_t y = 0; y < s.height; ++y) {
      const float* from =
          scratch.input_gradient.data() + (y + s.padding) * line + s.padding * stride;
      T* to = d.dx + (n * s.height + y) * inside;
      if (stride == s.channels) {
        for (size_t i = 0; i < inside; ++i) put(to[i], from[i]);
        continue;
      }
      for (size_t x = 0; x < s.width; ++x) {
        for (size_t c = 0; c < s.channels; ++c) put(to[x * s.channels + c], from[x * stride + c]);
      }
    }
  }
}

}  // namespace

void sparse_conv_backward(const SparseConvShape& shape, const SparseConvData<float>& data,
                          SparseConvScratch& scratch) {
  with_lanes([&]<class Lanes>()
                 __attribute__((always_inline)) { backward<Lanes>(shape, data, scratch); });
}
void sparse_conv_backward(const SparseConvShape& shape, const SparseConvData<Bf16>& data,
                          SparseConvScratch& scratch) {
  with_lanes([&]<class Lanes>()
                 __attribute__((always_inline)) { backward<Lanes>(shape, data, scratch); });
}

template <class T>
size_t sparse_conv_scratch_bytes(const SparseConvShape& s, bool dx) {
  const size_t line = (s.width + 2 * s.padding) * padded_channels(s),
               image = (s.height + 2 * s.padding) * line, rows = band_rows(s, line);
  size_t bytes = (dx ? 2 : 1) * image * sizeof(float) + num_entries(s, rows) * sizeof(Entry) +
                 s.out_channels * sizeof(uint32_t);
  if (dx && kGathers<T>) {
    bytes +=
        num_position_entries(s, rows) * sizeof(Entry) + num_positions(s, rows) * sizeof(uint32_t);
  }
  return bytes;
}
template size_t sparse_conv_scratch_bytes<float>(const SparseConvShape&, bool);
template size_t sparse_conv_scratch_bytes<Bf16>(const SparseConvShape&, bool);

}  // namespace espalier::nn

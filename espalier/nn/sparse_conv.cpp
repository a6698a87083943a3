#include "espalier/nn/sparse_conv.h"

#include <algorithm>
#include <type_traits>

#include "espalier/nn/lanes.h"
#include "espalier/nn/sparse_dot.h"
#include "espalier/nn/sparse_lists.h"

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

template <class Lanes, class T>
ESPALIER_INLINE void backward(const SparseConvShape& s, const SparseConvData<T>& d,
                              SparseConvScratch& scratch) {
  const size_t stride = padded_channels(s), line = (s.width + 2 * s.padding) * stride,
               image = (s.height + 2 * s.padding) * line;
  const size_t row = s.kernel * stride, filter = s.kernel * row;
  const size_t rows = band_rows(s, line * sizeof(float));
  scratch.input.assign(image, 0.0f);  // the padding stays zero
  if (d.dx != nullptr) scratch.input_gradient.resize(image);
  scratch.entries.resize(s.out_channels * list_room(s, rows));
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
        list_outputs<true, false>(s, d, n, begin, end, scratch);
      } else {
        list_outputs<false, false>(s, d, n, begin, end, scratch);
      }
      for (size_t c = 0; c < s.out_channels; ++c) {
        const Entry* entries = scratch.entries.data() + c * list_room(s, end - begin);
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
          if (d.dx == nullptr) continue;
          for_parts<kPart>(
              row / kLanes, [&]<size_t R>(size_t v) __attribute__((always_inline)) {
                spread_taps<Lanes, R>(entries, count, d.weights + in_filter + v,
                                      scratch.input_gradient.data() + in_image + v);
              });
        }
      }
    }
    if (d.dx != nullptr) {
      take_rows(s, scratch.input_gradient.data(), d.dx + n * s.height * s.width * s.channels);
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
  if (has_sparse_dot()) return sparse_dot_backward(shape, data, scratch);
  with_lanes([&]<class Lanes>()
                 __attribute__((always_inline)) { backward<Lanes>(shape, data, scratch); });
}

template <class T>
size_t sparse_conv_scratch_bytes(const SparseConvShape& s, bool dx) {
  if (std::is_same_v<T, Bf16> && has_sparse_dot()) return sparse_dot_scratch_bytes(s, dx);
  const size_t line = (s.width + 2 * s.padding) * padded_channels(s),
               image = (s.height + 2 * s.padding) * line;
  return (dx ? 2 : 1) * image * sizeof(float) +
         s.out_channels * list_room(s, band_rows(s, line * sizeof(float))) * sizeof(Entry) +
         s.out_channels * sizeof(uint32_t);
}
template size_t sparse_conv_scratch_bytes<float>(const SparseConvShape&, bool);
template size_t sparse_conv_scratch_bytes<Bf16>(const SparseConvShape&, bool);

}  // namespace espalier::nn

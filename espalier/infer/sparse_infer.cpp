#include "espalier/infer/sparse_infer.h"

// Kernels hold arrays of vectors, which vectors of unknown length do not allow.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#include <hwy/cache_control.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "espalier/infer/sparse_infer.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace espalier::infer::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using Vec = hn::Vec<D>;
constexpr size_t kN = hn::MaxLanes(D());
// Accumulators that leave room for operands among the registers.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_ARCH_ARM_A64
constexpr size_t kAccumulators = 24;
#else
constexpr size_t kAccumulators = 12;
#endif
constexpr size_t kMaxVectors = kAccumulators == 24 ? 4 : 2;
constexpr size_t kMaxRows = 12;
constexpr size_t max_rows(size_t vectors) { return std::min(kMaxRows, kAccumulators / vectors); }

using ConvCall = detail::SparseCall;

// How many kept input channels ahead weights are fetched where each is used once or few times.
constexpr size_t kAhead = 6;

template <size_t R>
HWY_INLINE void fetch_ahead(const ConvCall& c, const float* const (&w)[R], size_t j) {
  if (j + kAhead >= c.num_inputs) return;
  const size_t at = c.inputs[j + kAhead] * c.taps;
#pragma GCC unroll 16
  for (size_t r = 0; r < R; ++r) hwy::Prefetch(w[r] + at);
}

// R output channels × V vectors of pixels, from pixel `at` on.
template <size_t R, size_t V>
HWY_NOINLINE void pixel_block(const ConvCall& c, const uint32_t* outputs, size_t at) {
  const D d;
  const float* w[R];
  Vec sum[R][V];
#pragma GCC unroll 16
  for (size_t r = 0; r < R; ++r) {
    w[r] = c.weights + outputs[r] * c.row;
#pragma GCC unroll 4
    for (size_t v = 0; v < V; ++v) sum[r][v] = hn::Zero(d);
  }
  const float* x[V];
#pragma GCC unroll 4
  for (size_t v = 0; v < V; ++v) {
    const size_t pixel = at + v * kN;
    x[v] = c.x + pixel / c.line * c.line_step + pixel % c.line;
  }
  for (size_t j = 0; j < c.num_inputs; ++j) {
    if constexpr (V == 1) fetch_ahead<R>(c, w, j);
    const size_t first = c.inputs[j] * c.taps;
    for (size_t t = 0; t < c.taps; ++t) {
      Vec value[V];
#pragma GCC unroll 4
      for (size_t v = 0; v < V; ++v) value[v] = hn::LoadU(d, x[v] + c.tap_offsets[t]);
#pragma GCC unroll 16
      for (size_t r = 0; r < R; ++r) {
        const Vec weight = hn::Set(d, w[r][first + t]);
#pragma GCC unroll 4
        for (size_t v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(weight, value[v], sum[r][v]);
      }
    }
#pragma GCC unroll 4
    for (size_t v = 0; v < V; ++v) x[v] += c.block;
  }
#pragma GCC unroll 16
  for (size_t r = 0; r < R; ++r) {
    const size_t to = outputs[r] * c.plane + at;
    const Vec scale = hn::Set(d, c.epilogue->scale[outputs[r]]),
              shift = hn::Set(d, c.epilogue->shift[outputs[r]]);
#pragma GCC unroll 4
    for (size_t v = 0; v < V; ++v) {
      Vec value = hn::MulAdd(sum[r][v], scale, shift);
      if (c.epilogue->residual != nullptr)
        value = hn::Add(value, hn::LoadU(d, c.epilogue->residual + to + v * kN));
      if (c.epilogue->relu) value = hn::Max(value, hn::Zero(d));
      hn::StoreU(value, d, c.y + to + v * kN);
    }
  }
}

// R output channels × P pixels; lanes are taps, 16 per pixel of which nine count.
template <size_t R, size_t P>
HWY_NOINLINE void tap_block(const ConvCall& c, const uint32_t* outputs) {
  const D d;
  const float* w[R];
  Vec sum[R][P];
#pragma GCC unroll 16
  for (size_t r = 0; r < R; ++r) {
    w[r] = c.weights + outputs[r] * c.row;
#pragma GCC unroll 4
    for (size_t p = 0; p < P; ++p) sum[r][p] = hn::Zero(d);
  }
  const float* x = c.x;
  for (size_t j = 0; j < c.num_inputs; ++j, x += c.block) {
    fetch_ahead<R>(c, w, j);
    const size_t first = c.inputs[j] * c.taps;
#pragma GCC unroll 4
    for (size_t n = 0; n < 16; n += kN) {
      if (n > 8) break;  // nothing but zeros there
      Vec value[P];
#pragma GCC unroll 4
      for (size_t p = 0; p < P; ++p) value[p] = hn::LoadU(d, x + p * 16 + n);
#pragma GCC unroll 16
      for (size_t r = 0; r < R; ++r) {
        const Vec weight = hn::LoadU(d, w[r] + first + n);
#pragma GCC unroll 4
        for (size_t p = 0; p < P; ++p) sum[r][p] = hn::MulAdd(weight, value[p], sum[r][p]);
      }
    }
  }
  for (size_t r = 0; r < R; ++r) {
    const uint32_t o = outputs[r];
    for (size_t p = 0; p < P; ++p) {
      float value =
          hn::GetLane(hn::SumOfLanes(d, sum[r][p])) * c.epilogue->scale[o] + c.epilogue->shift[o];
      if (c.epilogue->residual != nullptr) value += c.epilogue->residual[o * c.plane + p];
      if (c.epilogue->relu) value = std::max(value, 0.0f);
      c.y[o * c.plane + p] = value;
    }
  }
}

using PixelBlock = void (*)(const ConvCall&, const uint32_t*, size_t);
using TapBlock = void (*)(const ConvCall&, const uint32_t*);

template <size_t V, size_t... R>
constexpr std::array<PixelBlock, kMaxRows> pixel_row(std::index_sequence<R...>) {
  return {pixel_block<std::min(R + 1, max_rows(V)), V>...};
}
template <size_t P, size_t... R>
constexpr std::array<TapBlock, kMaxRows> tap_row(std::index_sequence<R...>) {
  return {tap_block<std::min(R + 1, max_rows(P)), P>...};
}
using Rows = std::make_index_sequence<kMaxRows>;
constexpr std::array<std::array<PixelBlock, kMaxRows>, 4> kPixelBlocks = {
    pixel_row<1>(Rows()), pixel_row<2>(Rows()), pixel_row<std::min<size_t>(3, kMaxVectors)>(Rows()),
    pixel_row<kMaxVectors>(Rows())};
constexpr std::array<std::array<TapBlock, kMaxRows>, 4> kTapBlocks = {
    tap_row<1>(Rows()), tap_row<2>(Rows()), tap_row<3>(Rows()), tap_row<4>(Rows())};

// Calls `part(begin, size)` for nearly equal parts of at most `largest`.
template <class Part>
HWY_INLINE void in_parts(size_t count, size_t largest, Part part) {
  const size_t parts = (count + largest - 1) / largest;
  for (size_t i = 0, begin = 0; i < parts; ++i) {
    const size_t size = (count - begin) / (parts - i);
    part(begin, size);
    begin += size;
  }
}

void conv(const ConvCall& c, const uint32_t* outputs, size_t num_outputs, bool taps_are_lanes) {
  if (taps_are_lanes) {
    in_parts(num_outputs, max_rows(c.pixels), [&](size_t begin, size_t size) {
      kTapBlocks[c.pixels - 1][size - 1](c, outputs + begin);
    });
    return;
  }
  // Pixels outside: the part of the input under a few rows stays in the nearest cache while all
  // output channels pass over it.
  in_parts((c.pixels + kN - 1) / kN, kMaxVectors, [&](size_t first, size_t vectors) {
    in_parts(num_outputs, max_rows(vectors), [&](size_t begin, size_t size) {
      kPixelBlocks[vectors - 1][size - 1](c, outputs + begin, first * kN);
    });
  });
}

float sum_plane(const float* plane, size_t pixels) {
  const D d;
  Vec sum = hn::Zero(d);
  size_t i = 0;
  for (; i + kN <= pixels; i += kN) sum = hn::Add(sum, hn::LoadU(d, plane + i));
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < pixels; ++i) total += plane[i];
  return total;
}

// One channel's copies: per kernel column the plane moved by `column − padding`, masked where it
// comes from another row.
void shift(const float* plane, const uint32_t* masks, size_t kernel, size_t padding, size_t size,
           size_t copy, float* out) {
  const D d;
  const hn::Rebind<uint32_t, D> du;
  for (size_t column = 0; column < kernel; ++column) {
    const float* from = plane + column - padding;
    const uint32_t* mask = masks + column * size;
    float* to = out + column * copy;
    for (size_t i = 0; i < size; i += kN)
      hn::StoreU(hn::And(hn::LoadU(d, from + i), hn::BitCast(d, hn::LoadU(du, mask + i))), d,
                 to + i);
  }
}

// R rows of a linear layer at a time.
template <size_t R>
HWY_INLINE void linear_rows(const SparseLinear& s, const float* weights, const float* bias,
                            const uint32_t* channels, size_t count, const float* x, float* y) {
  const D d;
  // A vector is one channel of many pixels.
  const bool vector = s.plane == 1;
  const size_t blocks = vector ? 1 : count, pixels = vector ? s.columns : s.pixels;
  const size_t whole = pixels / kN * kN;
  const auto rest = hn::FirstN(d, pixels - whole);
  Vec sum[R];
#pragma GCC unroll 4
  for (size_t r = 0; r < R; ++r) sum[r] = hn::Zero(d);
  for (size_t i = 0; i < blocks; ++i) {
    const size_t channel = vector ? 0 : channels[i];
    const float* from = x + channel * s.plane;
    const float* row = weights + channel * pixels;
    const auto add = [&](size_t p, Vec value) HWY_ATTR {
#pragma GCC unroll 4
      for (size_t r = 0; r < R; ++r)
        sum[r] = hn::MulAdd(hn::LoadU(d, row + r * s.columns + p), value, sum[r]);
    };
    for (size_t p = 0; p < whole; p += kN) add(p, hn::LoadU(d, from + p));
    if (whole < pixels) add(whole, hn::IfThenElseZero(rest, hn::LoadU(d, from + whole)));
  }
  for (size_t r = 0; r < R; ++r) {
    const float total = bias[r] + hn::GetLane(hn::SumOfLanes(d, sum[r]));
    y[r] = s.relu ? std::max(total, 0.0f) : total;
  }
}

void linear(const SparseLinear& s, const float* weights, const float* bias,
            const uint32_t* channels, size_t count, const float* x, float* y) {
  size_t o = 0;
  for (; o + 4 <= s.rows; o += 4)
    linear_rows<4>(s, weights + o * s.columns, bias + o, channels, count, x, y + o);
  for (; o < s.rows; ++o)
    linear_rows<1>(s, weights + o * s.columns, bias + o, channels, count, x, y + o);
}

void columns(const float* matrix, size_t rows, const float* bias, const uint32_t* channels,
             size_t count, const float* x, float* y) {
  const D d;
  constexpr size_t kPart = 8;
  size_t o = 0;
  for (; o + kPart * kN <= rows; o += kPart * kN) {
    Vec sum[kPart];
#pragma GCC unroll 8
    for (size_t v = 0; v < kPart; ++v) sum[v] = hn::LoadU(d, bias + o + v * kN);
    for (size_t i = 0; i < count; ++i) {
      const Vec value = hn::Set(d, x[channels[i]]);
      const float* column = matrix + channels[i] * rows + o;
#pragma GCC unroll 8
      for (size_t v = 0; v < kPart; ++v)
        sum[v] = hn::MulAdd(value, hn::LoadU(d, column + v * kN), sum[v]);
    }
#pragma GCC unroll 8
    for (size_t v = 0; v < kPart; ++v) hn::StoreU(sum[v], d, y + o + v * kN);
  }
  for (; o + kN <= rows; o += kN) {
    Vec sum = hn::LoadU(d, bias + o);
    for (size_t i = 0; i < count; ++i)
      sum = hn::MulAdd(hn::Set(d, x[channels[i]]), hn::LoadU(d, matrix + channels[i] * rows + o),
                       sum);
    hn::StoreU(sum, d, y + o);
  }
  for (; o < rows; ++o) {
    float sum = bias[o];
    for (size_t i = 0; i < count; ++i) sum += x[channels[i]] * matrix[channels[i] * rows + o];
    y[o] = sum;
  }
}

}  // namespace
}  // namespace espalier::infer::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::infer {

HWY_EXPORT(conv);
HWY_EXPORT(sum_plane);
HWY_EXPORT(shift);
HWY_EXPORT(linear);
HWY_EXPORT(columns);

float plane_sum(const float* plane, size_t pixels) {
  return HWY_DYNAMIC_DISPATCH(sum_plane)(plane, pixels);
}

SparsePlan::SparsePlan(const SparseShape& shape) : shape_(shape) {
  const SparseShape& s = shape_;
  if (s.taps_are_lanes()) {
    layout_ = Layout::kTaps;
    block_ = s.pixels() * 16;
    for (size_t p = 0; p < s.pixels(); ++p) {
      for (size_t t = 0; t < s.taps(); ++t) {
        // Unsigned: what lies before the first row or column wraps and is as far out.
        const size_t y = p / s.out_width * s.stride + t / s.kernel - s.padding,
                     x = p % s.out_width * s.stride + t % s.kernel - s.padding;
        sources_.push_back(
            y < s.in_height && x < s.in_width ? static_cast<int32_t>(y * s.in_width + x) : -1);
      }
    }
    return;
  }
  const bool same = s.stride == 1 && s.out_width == s.in_width && s.out_height == s.in_height &&
                    s.padding <= kPlaneStep;
  // From two vectors per row on: with one, reading rows that begin anywhere costs more than copies.
  if (same && s.out_width % (2 * kPlaneStep) == 0) {
    layout_ = Layout::kRows;
    line_ = s.out_width;
    line_step_ = s.out_width + kPlaneStep;
    rows_ = s.out_height + s.kernel - 1;
    block_ = rows_ * line_step_ + kPlaneStep;
    for (size_t t = 0; t < s.taps(); ++t)
      taps_.push_back(
          static_cast<uint32_t>(t / s.kernel * line_step_ + kPlaneStep + t % s.kernel - s.padding));
    return;
  }
  phases_ = std::min(s.stride, s.kernel);
  rows_ = s.out_height + (s.kernel - 1) / s.stride;
  block_ = plane_size(s.kernel * phases_ * rows_ * s.out_width);
  for (size_t t = 0; t < s.taps(); ++t) {
    const size_t row = t / s.kernel, column = t % s.kernel;
    taps_.push_back(static_cast<uint32_t>(
        ((column * phases_ + row % s.stride) * rows_ + row / s.stride) * s.out_width));
  }
  line_ = line_step_ = plane_size(s.pixels());  // one line
  if (!same) return;
  layout_ = Layout::kShifted;
  const size_t plane = plane_size(s.pixels());
  masks_.resize(s.kernel * plane);
  for (size_t column = 0; column < s.kernel; ++column) {
    for (size_t p = 0; p < s.pixels(); ++p) {
      const size_t x = p % s.out_width + column - s.padding;
      masks_[column * plane + p] = x < s.in_width ? ~uint32_t{0} : 0;
    }
  }
}

void SparsePlan::unfold(const float* planes, std::span<const uint32_t> channels, float* out) const {
  const SparseShape& s = shape_;
  const size_t plane = plane_size(s.in_pixels());
  for (const uint32_t channel : channels) {
    const float* in = planes + channel * plane;
    if (layout_ == Layout::kRows) {
      float* row = out + s.padding * line_step_ + kPlaneStep;
      for (size_t y = 0; y < s.in_height; ++y, row += line_step_)
        std::memcpy(row, in + y * s.in_width, s.in_width * sizeof(float));
    } else if (layout_ == Layout::kTaps) {
      for (size_t p = 0; p < s.pixels(); ++p) {
        for (size_t t = 0; t < 9; ++t) {
          const int32_t source = sources_[p * 9 + t];
          out[p * 16 + t] = source < 0 ? 0.0f : in[source];
        }
      }
    } else if (layout_ == Layout::kShifted) {
      // Vectors may end behind the plane: there they write zeros, over the padding or over what is
      // written next.
      HWY_DYNAMIC_DISPATCH(shift)
      (in, masks_.data(), s.kernel, s.padding, plane, rows_ * s.out_width,
       out + s.padding * s.out_width);
    } else {
      for (size_t column = 0; column < s.kernel; ++column) {
        for (size_t phase = 0; phase < phases_; ++phase) {
          float* copy = out + (column * phases_ + phase) * rows_ * s.out_width;
          for (size_t r = 0; r < rows_; ++r, copy += s.out_width) {
            const size_t y = r * s.stride + phase - s.padding;
            if (y >= s.in_height) continue;
            const float* row = in + y * s.in_width;
            for (size_t x = 0; x < s.out_width; ++x) {
              const size_t from = x * s.stride + column - s.padding;
              if (from < s.in_width) copy[x] = row[from];
            }
          }
        }
      }
    }
    out += block_;
  }
}

void sparse_conv(const SparsePlan& plan, const float* weights, std::span<const uint32_t> inputs,
                 std::span<const uint32_t> outputs, const float* unfolded,
                 const SparseEpilogue& epilogue, float* y) {
  const SparseShape& s = plan.shape_;
  const detail::SparseCall call{.weights = weights,
                                .row = s.in_channels * s.taps(),
                                .inputs = inputs.data(),
                                .num_inputs = inputs.size(),
                                .taps = s.taps(),
                                .tap_offsets = plan.taps_.data(),
                                .x = unfolded,
                                .block = plan.block_,
                                .line = plan.line_,
                                .line_step = plan.line_step_,
                                .epilogue = &epilogue,
                                .y = y,
                                .plane = plane_size(s.pixels()),
                                .pixels = s.pixels()};
  HWY_DYNAMIC_DISPATCH(conv)(call, outputs.data(), outputs.size(), s.taps_are_lanes());
}

void sparse_linear(const SparseLinear& shape, const float* weights, const float* bias,
                   std::span<const uint32_t> channels, const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(linear)(shape, weights, bias, channels.data(), channels.size(), x, y);
}

void sparse_columns(const float* matrix, size_t rows, const float* bias,
                    std::span<const uint32_t> channels, const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(columns)
  (matrix, rows, bias, channels.data(), channels.size(), x, y);
}

}  // namespace espalier::infer
#endif  // HWY_ONCE

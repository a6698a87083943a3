#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// Kernels of inference on one sample that compute some output channels from some input channels
// only. The weights are read where they stand, in PyTorch's order [out, in, kernel, kernel]:
// nothing is gathered, and what is skipped is not read. Single-threaded, fp32, compiled for several
// instruction sets of which the best is taken at run time (Highway).
//
// Activations are planes: one per channel, `plane` floats apart, of which the first `pixels` count.
// `plane` is a multiple of kPlaneStep, so that whole vectors can be written; what stands between
// `pixels` and `plane` is anything but must be finite.
//
// A convolution's input is first unfolded: for every kept input channel one block, in which each
// tap of the kernel finds the values that belong to all output pixels at a constant distance from
// the output's own position. Two layouts, by the size of the map:
// - Pixels are lanes: a vector of pixels is multiplied with one weight at a time. Maps whose rows
//   are whole pairs of vectors get zeros between the rows; others are copied once per kernel column
//   (and per row and column modulo the stride), shifted so that a tap is an offset in the flat map.
// - Taps are lanes, for up to four output pixels and 3×3: 16 values per output pixel, the taps it
//   sees and zeros. A vector of weights is multiplied with one pixel's at a time: such layers have
//   many weights, each used once or twice, and this reads them at the memory's speed.
//
// Sums run over the kept channels in the order given, ascending, then over the taps. A channel of
// zeros changes no bit of a result: skipping it or not gives the same floats.
namespace espalier::infer {

inline constexpr size_t kPlaneStep = 16;
// Floats that must be readable behind the last weight.
inline constexpr size_t kWeightSlack = 16;

struct SparseShape {
  size_t in_channels = 0, in_height = 0, in_width = 0;
  size_t out_channels = 0, out_height = 0, out_width = 0;
  size_t kernel = 1, stride = 1, padding = 0;

  size_t taps() const { return kernel * kernel; }
  size_t pixels() const { return out_height * out_width; }
  size_t in_pixels() const { return in_height * in_width; }
  bool taps_are_lanes() const { return pixels() <= 4 && taps() == 9; }
};

// Floats from one plane to the next.
inline size_t plane_size(size_t pixels) {
  return (pixels + kPlaneStep - 1) / kPlaneStep * kPlaneStep;
}

// What becomes of the sums: y = scale[o]·sum + shift[o] (+ residual), then max(·, 0) with `relu`.
struct SparseEpilogue {
  const float* scale = nullptr;  // one per output channel
  const float* shift = nullptr;
  const float* residual = nullptr;  // planes like y's; null: none
  bool relu = false;
};

// What is worked out once for a shape.
class SparsePlan {
 public:
  explicit SparsePlan(const SparseShape& shape);

  const SparseShape& shape() const { return shape_; }
  // Floats of one unfolded channel, and of a buffer for all of them.
  size_t block() const { return block_; }
  size_t unfolded_size() const { return shape_.in_channels * block_ + 2 * kPlaneStep; }

  // Writes the blocks of the given input channels one behind the other. `out` must have been zeroed
  // once for this plan: what the padding leaves at 0 is not written again. `planes` must be
  // readable kPlaneStep floats before its begin and behind its end.
  void unfold(const float* planes, std::span<const uint32_t> channels, float* out) const;

 private:
  friend void sparse_conv(const SparsePlan&, const float*, std::span<const uint32_t>,
                          std::span<const uint32_t>, const float*, const SparseEpilogue&, float*);
  SparseShape shape_;
  enum class Layout : uint8_t { kTaps, kRows, kShifted, kCopied } layout_ = Layout::kCopied;
  size_t block_ = 0, rows_ = 0, phases_ = 1, line_ = 0, line_step_ = 0;
  std::vector<uint32_t> taps_;    // pixels as lanes: offset of each tap in a block
  std::vector<uint32_t> masks_;   // kShifted: per kernel column one plane of masks
  std::vector<int32_t> sources_;  // taps as lanes: input pixel of each (pixel, tap), −1: padding
};

// Σ over the first `pixels` of a plane.
float plane_sum(const float* plane, size_t pixels);

// y's planes of the channels `outputs` from the unfolded blocks of the channels `inputs` (both
// ascending); other planes of y are not touched. `weights`: out_channels × in_channels × taps, and
// kWeightSlack more floats, finite.
void sparse_conv(const SparsePlan& plan, const float* weights, std::span<const uint32_t> inputs,
                 std::span<const uint32_t> outputs, const float* unfolded,
                 const SparseEpilogue& epilogue, float* y);

// y[o] = bias[o] + Σ weights[o, c·pixels + p]·x[c·plane + p] over the given channels c and all p,
// for all `rows` o. A plane of 1 means a vector: then all columns count, whatever `channels` says.
// kPlaneStep floats must be readable behind x and behind the weights, which are finite.
struct SparseLinear {
  size_t rows, columns;  // of the weights
  size_t pixels, plane;  // of x; columns is channels × pixels
  bool relu;
};
void sparse_linear(const SparseLinear& shape, const float* weights, const float* bias,
                   std::span<const uint32_t> channels, const float* x, float* y);

// y[o] = bias[o] + Σ_c x[c]·columns[c, o] over the given c: a matrix that stands column by column,
// so that columns which are not wanted are not read.
void sparse_columns(const float* columns, size_t rows, const float* bias,
                    std::span<const uint32_t> channels, const float* x, float* y);

namespace detail {

// What a kernel of one instruction set needs of a call of sparse_conv.
struct SparseCall {
  const float* weights;
  size_t row;  // floats of one output channel's weights
  const uint32_t* inputs;
  size_t num_inputs, taps;
  const uint32_t* tap_offsets;
  const float* x;
  size_t block;
  size_t line, line_step;  // pixels in a row of x, and floats from one row to the next
  const SparseEpilogue* epilogue;
  float* y;
  size_t plane, pixels;
};

}  // namespace detail

}  // namespace espalier::infer

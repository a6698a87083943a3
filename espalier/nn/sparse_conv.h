#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "espalier/nn/kernels.h"
#include "espalier/params/parameter_set.h"

// The backward pass of a convolution whose output goes through ReLU and a max-pooling, and nowhere
// else. Of the window² outputs under one pooled value only the largest has a gradient, and none
// when it is not positive; so at most one output in window² contributes. Walking these alone takes
// 1/window² of the dense pass's multiplications or less, which beats the dense kernels' better use
// of the processor (5×5 taps on 2×2 windows: 1.7 times faster in fp32; it gains beside
// oneDNN's bf16 on processors with AMX as well).
//
// Sums are taken in float, also of bf16 values, in a fixed order. Where the processor has the dot
// product of bf16, bf16 values are multiplied by it (sparse_dot.h); weights are rounded then.
// Stride 1; windows at most 15 wide. A kernel row of kernel·channels values is worked on in vectors
// of 16, so few channels (a first layer's) do not pay.
namespace espalier::nn {

struct SparseConvShape {
  size_t batch, height, width, channels;  // of the convolution's input
  size_t out_channels, kernel, padding;
  size_t pooled_height, pooled_width, window;
};

// Working memory, kept by the layer.
struct SparseConvScratch {
  struct Entry {
    uint32_t offset;  // of the output's first tap in the padded input, in values
    float gradient;
  };
  AlignedVector<float> input, input_gradient;  // one padded image each
  std::vector<Entry> entries;                  // out_channels lists
  std::vector<uint32_t> counts;
  // sparse_dot's: the input and the weights as they are multiplied, and the outputs of a band once
  // more, one list for each position.
  AlignedVector<Bf16> rounded_input, rounded_weights;
  std::vector<Entry> position_entries;
  std::vector<uint32_t> position_counts;
  uint64_t walked = 0;  // outputs of the last pass that had a gradient
};

// The gradient `dy` of the pooled values `y` (batch × pooled_height × pooled_width × out_channels),
// where `argmax` is max_pool's, gives
//   weight_gradient: out_channels × kernel × kernel × padded_channels(shape), of which the channels
//   count and the rest is 0; bias_gradient: out_channels, null when there is none; dx: like x, null
//   when not wanted; then `weights` are read, in the order of weight_gradient, with 0 in the rest.
template <class T>  // float or Bf16
struct SparseConvData {
  const T* x;
  const T* dy;
  const T* y;  // null: the convolution has no ReLU, all of dy counts
  const uint8_t* argmax;
  const float* weights;
  float* weight_gradient;
  float* bias_gradient;
  T* dx;
};
// Whether bf16 values are multiplied by the dot product.
bool has_sparse_dot();
// The channels, rounded up to whole vectors.
size_t padded_channels(const SparseConvShape& shape);
// Bytes that the working memory grows to for values of type T, float or Bf16.
template <class T>
size_t sparse_conv_scratch_bytes(const SparseConvShape& shape, bool dx);
void sparse_conv_backward(const SparseConvShape& shape, const SparseConvData<float>& data,
                          SparseConvScratch& scratch);
void sparse_conv_backward(const SparseConvShape& shape, const SparseConvData<Bf16>& data,
                          SparseConvScratch& scratch);

}  // namespace espalier::nn

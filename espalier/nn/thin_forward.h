#pragma once

#include "espalier/nn/conv_shape.h"
#include "espalier/nn/kernels.h"

// The forward pass of a convolution that reads few channels, that of the layer which reads the
// samples, by the bf16 dot product. Vectors run along the output channels; what a kernel row
// multiplies lies side by side in a channels-last image and is taken two values at a time, for up
// to eight neighbouring outputs at once. oneDNN's kernels want many input channels: here they take
// two to three times as long. Products of bf16, sums in float, in the order of the taps.
// A kernel row of an odd number of values is filled up by 0, times whatever comes next. NaN passes
// ReLU, which oneDNN's makes 0.
namespace espalier::nn {

// Whether there is a kernel for it: at most four channels, whole vectors of output channels, and a
// processor that has the instruction, with oneDNN told to use it.
bool thin_forward(const ConvShape& shape);
// Of working memory, aligned to 64 bytes.
size_t thin_forward_scratch(const ConvShape& shape);
// y = x * w + bias, then max(·, 0) when `relu`. x: batch × height × width × channels, w:
// out_channels × channels × kernel × kernel, bias: out_channels or null, y: batch × out_height ×
// out_width × out_channels.
void thin_forward(const ConvShape& shape, const Bf16* x, const float* w, const float* bias,
                  bool relu, Bf16* y, void* scratch);

}  // namespace espalier::nn

#pragma once

#include "espalier/nn/conv_shape.h"
#include "espalier/nn/kernels.h"

// The weight gradient of a convolution by the bf16 dot product (AVX-512 BF16: two products and
// their sum per lane, which doubles the products per second where the processor is made for it).
// The sum over the positions of an image is taken two neighbours at a time; so input and gradient
// are first brought into an order in which these stand beside each other, channel by channel. Then
// one vector is 16 input channels under one tap, one broadcast value an output channel, and all
// taps of a kernel row times some outputs stay in registers while a few images go by. On Zen 4
// oneDNN 2.6 reaches 70 to 95 % of this for 16 to 64 channels, and more for others.
//
// Products of bf16, sums in float: of some images that fit into the second-level cache, then these
// sums in their order. Values below 2^-126 count as zero, as the instruction has it.
// Where the last output of a line has no neighbour, 0 stands in: times an infinite input that is
// NaN.
namespace espalier::nn {

// Whether there is a kernel for it: 1×1, 3×3 or 5×5, stride 1 or 2, a processor that has the
// instruction and oneDNN told to use it.
bool dot_conv(const ConvShape& shape);
// And whether it is faster than oneDNN's.
bool worth_dot_conv(const ConvShape& shape);
// Of working memory, aligned to 64 bytes.
size_t dot_conv_scratch(const ConvShape& shape);
// x: batch × height × width × channels, dy: batch × out_height × out_width × out_channels.
// weight_gradient: out_channels × channels × kernel × kernel, bias_gradient: out_channels, null
// when there is none.
void dot_conv_gradient(const ConvShape& shape, const Bf16* x, const Bf16* dy,
                       float* weight_gradient, float* bias_gradient, void* scratch);

}  // namespace espalier::nn

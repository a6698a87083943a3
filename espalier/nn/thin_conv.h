#pragma once

#include <cstddef>

#include "espalier/nn/conv_shape.h"
#include "espalier/nn/kernels.h"

// The weight gradient of a convolution that reads few channels: that of the layer which reads the
// samples. Vectors run along the output channels, and all taps of a kernel stay in registers while
// an image goes by; oneDNN's bf16 kernels are made for many input channels (with AMX they take
// three times as long as its own fp32 for one channel). Values are bf16, sums are taken in float:
// those of an image by themselves, then image after image.
namespace espalier::nn {

// Whether there is a kernel for it: 3×3 of one or three channels or 5×5 of one, and whole vectors
// of output channels.
bool thin_conv(const ConvShape& shape);
// Of working memory, aligned to 64 bytes.
size_t thin_conv_scratch(const ConvShape& shape);
// x: batch × height × width × channels, dy: batch × out_height × out_width × out_channels.
// weight_gradient: out_channels × channels × kernel × kernel, bias_gradient: out_channels, null
// when there is none.
void thin_conv_gradient(const ConvShape& shape, const Bf16* x, const Bf16* dy,
                        float* weight_gradient, float* bias_gradient, float* scratch);

}  // namespace espalier::nn

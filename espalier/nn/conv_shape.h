#pragma once

#include <cstddef>

namespace espalier::nn {

// A convolution of square kernels over a batch of channels-last images.
struct ConvShape {
  size_t batch, height, width, channels;  // of the input
  size_t out_channels, out_height, out_width;
  size_t kernel, stride, padding;
};

}  // namespace espalier::nn

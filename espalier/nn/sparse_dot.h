#pragma once

#include "espalier/nn/sparse_conv.h"

// sparse_conv_backward() by the dot product of bf16: each instruction takes two outputs that have a
// gradient, and so half as many values are loaded. The weight gradient is walked by output channel
// as in fp32; the input's is gathered by position, which loads and stores a sum once for all
// channels that have their gradient there. Both add up in an order of their own, by the layer's
// shape and the gradients alone.
namespace espalier::nn {

void sparse_dot_backward(const SparseConvShape& shape, const SparseConvData<Bf16>& data,
                         SparseConvScratch& scratch);
size_t sparse_dot_scratch_bytes(const SparseConvShape& shape, bool dx);

}  // namespace espalier::nn

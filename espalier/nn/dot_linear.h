#pragma once

#include "espalier/nn/small_batch.h"

// small_batch.h's products in bf16, for nets that compute in it: inputs, gradients and weights are
// rounded to bf16 as they are read, two products and their sum are one instruction (AVX-512 BF16),
// and sums are float's. The weights themselves and their update stay float, and each is still read
// once forward, read and written once backward: half of the time is left where arithmetic takes it.
//
//   forward:  16 sums of products, of two neighbours of every 32 inputs each, then as there
//   dx:       sums over the outputs, two neighbours at a time
//   update:   W·keep − rate·g, g the sum over the samples, two at a time
// Values below 2^-126 count as zero, as the instruction has it.
namespace espalier::nn {

// Whether the functions below can take it: the processor has the instruction, oneDNN is told to use
// it, and the batch is small.
bool dot_linear(const LinearShape& shape);
// Of working memory, aligned to 64 bytes, for either function.
size_t dot_linear_scratch(const LinearShape& shape);

// As small_batch_forward and small_batch_backward.
void dot_linear_forward(const LinearShape& shape, const float* x, const float* w, float* y,
                        void* scratch);
void dot_linear_backward(const LinearShape& shape, const LinearBackward& data, void* scratch);

}  // namespace espalier::nn

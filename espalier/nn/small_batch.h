#pragma once

#include <cstddef>

// The products of a linear layer y = x·Wᵀ, W: [out, in], for the small batches of federated
// clients, where each weight is used so few times that moving it is what takes the time. Forward
// reads each weight once. Backward takes the input's gradient and applies the update (or writes the
// weights' gradient) in one pass, which reads and writes each weight once.
//
// fp32 on processors with AVX-512, bit for bit what oneDNN's sgemm of release 2.6 gives there for
// each product by itself:
//   forward:  16 sums of products, of every 16th input each, folded 8 + 8, 4 + 4, 2 + 2, 1 + 1;
//   dx:       sums over the outputs in their order, in blocks (inner_block) that are added up;
//   update:   W·keep + (−rate·g) in one rounding, g the sum over the samples in their order
//             (oneDNN rounds otherwise on some processors where `in` is a multiple of 4096).
namespace espalier::nn {

struct LinearShape {
  size_t batch, in, out;
};

// Whether the functions below can take it: the processor has AVX-512 and oneDNN uses it (then the
// bits are the same), and the batch is small.
bool small_batch(const LinearShape& shape);
// And whether they are faster: the weights are many.
bool worth_small_batch(const LinearShape& shape);
// Of working memory, aligned to 64 bytes, for either function.
size_t small_batch_scratch(const LinearShape& shape);

// y = x·Wᵀ. x: batch × in, w: out × in, y: batch × out.
void small_batch_forward(const LinearShape& shape, const float* x, const float* w, float* y,
                         float* scratch);

// dx = dy·W unless dx is null, with the weights as they are; then either
// W = keep·W − rate·dyᵀ·x (`gradient` null), or gradient = dyᵀ·x and W stays.
struct LinearBackward {
  const float* x;
  const float* dy;
  float* w;
  float* dx = nullptr;
  float* gradient = nullptr;
  float rate = 0, keep = 1;
  // The weights before an update, when they are not in w: all of w is written then. (Not for
  // dot_linear.h.)
  const float* from = nullptr;
};
void small_batch_backward(const LinearShape& shape, const LinearBackward& data, float* scratch);

// How many of `left` outputs are summed before the next are added.
size_t inner_block(size_t left);

}  // namespace espalier::nn

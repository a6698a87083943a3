#pragma once

#include <cstddef>

// The arithmetic of gates (gates.h), which are always float.
namespace espalier::nn {

// to: columns × rows.
void transpose(const float* from, size_t rows, size_t columns, float* to);

struct GateShape {
  size_t batch, in, out;
};
// g = ReLU(A s + b): s batch × in, A's transpose in × out, g batch × out. Each value is a sum over
// the inputs in their order, from the bias on: it depends neither on the other samples nor on their
// number, and inputs of 0 may be left out.
void gate_values(const GateShape& shape, const float* s, const float* transposed, const float* bias,
                 float* g);
void sigmoid(float* x, size_t size);

// Sets all but the `kept` largest of g's values to 0; of equal ones the first stay. Values must not
// be negative. `work`: `size` floats.
void keep_largest(float* g, size_t size, size_t kept, float* work);

}  // namespace espalier::nn

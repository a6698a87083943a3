#pragma once

#include <cstddef>

// The elementwise part of one step of an LSTM, for `rows` samples of `units` units. Gates stand in
// PyTorch's order: rows × 4 × units of input, forget, candidate and output gate. All buffers are
// distinct; a NaN stays one.
namespace espalier::nn {

// Before: `gates` holds the products W_ih·x + W_hh·h; `bias` (4 × units) is still to be added.
// After: the gates' values i, f, g, o, with cell = f·before + i·g and hidden = o·tanh(cell).
void lstm_step(size_t rows, size_t units, const float* bias, const float* before, float* gates,
               float* cell, float* hidden);

// dhidden: the gradient of `hidden`. dcell: what the next step adds to the cell's gradient; becomes
// what this step adds to that of `before`. gates: values, become the products' gradient.
void lstm_step_backward(size_t rows, size_t units, const float* dhidden, const float* before,
                        const float* cell, float* dcell, float* gates);

// 1 / (1 + exp(−x)) and tanh(x) within a few units in the last place, for tests.
void lstm_sigmoid(const float* x, size_t size, float* y);
void lstm_tanh(const float* x, size_t size, float* y);

}  // namespace espalier::nn

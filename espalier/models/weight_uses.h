#pragma once

#include <cstdint>
#include <vector>

#include "espalier/models/make_trainer.h"

namespace espalier::models {

// How many times every value of each tensor of the model's layout is multiplied in one sample's
// forward pass: pixels of the output for a convolution, 1 for a linear layer, tokens for an LSTM, 0
// for what multiplies nothing (biases, normalization, embeddings). Throws Error for a TorchScript
// module, whose layers are not known.
std::vector<int64_t> weight_uses(const ModelOptions& model, const DataSpec& data);

}  // namespace espalier::models

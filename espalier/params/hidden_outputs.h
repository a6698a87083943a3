#pragma once

#include <algorithm>
#include <string_view>

#include "espalier/params/layout.h"

// What multiplying the outputs of hidden layers by a factor is about (HeteroFL's scaler), where
// nets are trained and where they are evaluated.
namespace espalier {

// Whether a tensor of this name is a gate's weight or bias (nn/gates.h).
inline bool is_gate_tensor(std::string_view name) {
  return name.ends_with(".gate.weight") || name.ends_with(".gate.bias");
}

// Whether a tensor takes the factor: weights and biases that compute units. A gate scales what its
// convolution computes, and only one of them takes it.
inline bool makes_hidden_outputs(const ParameterInfo& tensor) {
  const bool computes = tensor.role == Role::kWeight || tensor.role == Role::kBias;
  const bool units =
      std::ranges::any_of(tensor.units, [](const AxisUnits& part) { return part.axis == 0; });
  return computes && units && !is_gate_tensor(tensor.name);
}

}  // namespace espalier

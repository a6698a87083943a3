#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "espalier/prune/mask.h"
#include "espalier/submodel/submodel.h"

// From masks to physically smaller models, by the unit groups that sub-models use.
namespace espalier::prune {

// The units of every group that stay (increasing): a unit goes when more than `threshold` of its
// incoming weights (of all tensors of role weight that compute it) are pruned. The unit of a group
// with the most incoming weights left stays in any case (the first of equals).
std::vector<std::vector<uint32_t>> kept_units(const Mask& mask, double threshold);

// The mask with every trainable value of the units that go pruned too: incoming weights, biases,
// normalization, outgoing weights.
Mask without_units(const Mask& mask, const std::vector<std::vector<uint32_t>>& kept);

// The units that do anything in a model with zeros: a unit is dead when all weights that read it
// are zero, or when all trainable values that compute it are (its output is then 0). At least one
// unit per group stays. The sub-model of the live units computes the same function.
std::vector<std::vector<uint32_t>> live_units(const ParameterSet& model);

}  // namespace espalier::prune

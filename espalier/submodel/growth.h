#pragma once

#include <cstdint>
#include <span>

#include "espalier/params/parameter_set.h"

namespace espalier::submodel {

// Makes fresh weights those of the net of the first kept[g] units of every group g, inside the
// whole one: weights on inputs from the other units become 0, and those on kept inputs grow by
// √(inputs/kept inputs) of their tensor, so that activations keep the variance that they were drawn
// for. Axis 0 of a weight is what it computes. Where units meet in weights alone (no group norm, no
// gates), the whole net then computes what the small one does, and the others learn from the round
// on in which they are trained: their own inputs are in place. Tensors of other roles than weight
// stay. (Ours; zero outgoing weights as in Net2Net's wider nets, Chen et al. 2016, whose new units
// are copies.)
void begin_small(ParameterSet& model, std::span<const int64_t> kept);

}  // namespace espalier::submodel

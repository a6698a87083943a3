#pragma once

#include <string>
#include <vector>

#include "espalier/models/make_trainer.h"

// Unit groups of a user's TorchScript module. They are derived by following the module's operators
// (script_walk.h) in evaluation and in training mode, and then checked: with random weights, some
// units are dropped, and the narrowed module must run in both modes and give the logits that the
// full module gives when everything outside the sub-model is zero (running statistics excepted). A
// group that fails stays whole. This header is free of libtorch.
namespace espalier::script {

using namespace models;

// What stays whole although it is neither the input nor the logits, one line each, e.g.
//   "conv2, conv3: all units stay; a convolution in 4 groups is not analysed"
// Empty for a module of which everything was analysed, and for every other model. Loads and
// analyses the file; throws Error when it cannot be used.
std::vector<std::string> script_unit_notes(const ModelOptions& options, const DataSpec& data);

}  // namespace espalier::script

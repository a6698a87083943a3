#pragma once

#include <map>
#include <string>

#include "espalier/base/bytes.h"
#include "espalier/params/parameter_set.h"
#include "espalier/params/safetensors.h"

namespace espalier::train {

// What a model has besides the tensors of its layout. Only a TorchScript module has any: its
// frozen parameters (requires_grad = False) and the buffers that its forward never writes. They
// belong to the module's file, which everybody who runs the model has: no step changes them, no
// message carries them, and a file of weights may repeat but not change them.
struct FixedTensors {
  ParameterSet values;  // empty: none
  // Further names of tensors, parameters that are tied: name → the name that the layout or `values`
  // has.
  std::map<std::string, std::string> other_names;

  bool none() const { return values.empty() && other_names.empty(); }
};

// The weights as a file, with the fixed values beside them, each tensor under one name.
Bytes write_weights(const ParameterSet& weights, const FixedTensors& fixed,
                    const std::map<std::string, std::string>& metadata);

// Fills `weights` from a file that has all of its tensors, under any of their names. The file may
// hold fixed tensors, with the values that they have, and further names of a tensor, with the
// values that it has. Throws Error otherwise, and for a tensor that the model does not have.
void read_weights(const SafetensorsFile& file, const FixedTensors& fixed, ParameterSet& weights);

}  // namespace espalier::train

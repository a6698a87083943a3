#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "espalier/params/parameter_set.h"

// What the codec commands read. `where` names the command in errors.
namespace espalier::apps {

// What becomes of a file's tensors of integers.
enum class Integers { kConvert, kSkip, kRefuse };

// The tensors of a safetensors file as float32, in the order of their names. Those of fewer than
// two dimensions have the role bias, the others are weights. Throws Error when there is no value.
ParameterSet read_tensors(const std::string& file, std::string_view where, Integers integers);

// One weight "x" from a file of little-endian float32 values; an empty shape stands for a vector of
// all of them. Throws Error when the shape has another number of values, and when there is none.
ParameterSet read_raw(const std::string& file, std::string_view where, std::vector<int64_t> shape);

}  // namespace espalier::apps

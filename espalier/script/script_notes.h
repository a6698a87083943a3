#pragma once

#include <string>
#include <vector>

#include "espalier/models/make_trainer.h"

namespace espalier::script {

using namespace models;

// What a person should know of a module before it is trained, one line each: frozen parameters, and
// outputs that are probabilities already. Free of libtorch. Throws Error when the file cannot be
// used.
std::vector<std::string> script_model_notes(const ModelOptions& options, const DataSpec& data);

}  // namespace espalier::script

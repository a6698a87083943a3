#pragma once

#include <memory>
#include <span>
#include <string>

#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/nn/net.h"

namespace espalier::script {

using namespace models;

// A user's TorchScript module (ModelOptions::file) under libtorch's autograd. `units` as in
// make_trainer. Throws Error when the file cannot be used or does not fit the data; libtorch's
// exceptions become Errors here. Free of libtorch's headers.
std::unique_ptr<nn::Net> make_script_net(const ModelOptions& options, const DataSpec& data,
                                         const std::string& device,
                                         std::span<const int64_t> units = {});

}  // namespace espalier::script

// The one symbol of the module that a program loads when it needs libtorch.
#include "espalier/models/torch_module.h"

#include "espalier/base/version.h"

constinit const espalier::models::TorchModule espalier_torch_module = {
    espalier::build_id, espalier::models::foreign_engine};

#pragma once

#include <string_view>

#include "espalier/models/foreign.h"

// What a program that loads libtorch when it is needed (lazy_torch.cpp) finds in the module that
// brings it (script/torch_module.cpp). The module has copies of our libraries of its own and shows
// nothing but this; Errors and nets pass between the two as they are, so both must be of one build.
namespace espalier::models {

struct TorchModule {
  std::string_view (*build_id)();  // to be compared before anything else is used
  const ForeignEngine& (*engine)();
};

inline constexpr char kTorchModuleFile[] = "espalier_torch.so";
inline constexpr char kTorchModuleSymbol[] = "espalier_torch_module";

}  // namespace espalier::models

extern "C" const espalier::models::TorchModule espalier_torch_module;

#pragma once

#include <torch/csrc/jit/api/module.h>

#include <map>
#include <string>
#include <string_view>

#include "espalier/params/parameter_set.h"

// Builds a TorchScript module around our tensors.
namespace espalier::script {

// A tree of modules that has every tensor of `weights` under its own name: "layer1.0.conv1.weight"
// is parameter `weight` of module `conv1` of module `0` of module `layer1`. Statistics and counters
// (int64) are buffers, all others parameters. The tensors are copies.
class ModuleTree {
 public:
  explicit ModuleTree(const ParameterSet& weights);

  // How TorchScript code of the root reads a tensor or a module: "getattr(self.layer1,
  // \"0\").conv1.weight".
  static std::string expression(std::string_view name);
  // Adds the root's method and puts the tree into evaluation mode.
  ::torch::jit::Module define(const std::string& source) &&;

 private:
  // The module of this name, made with its parents when it is not there; "" is the root.
  ::torch::jit::Module& at(const std::string& name);

  std::shared_ptr<::torch::jit::CompilationUnit> unit_;
  std::map<std::string, ::torch::jit::Module> modules_;
};

}  // namespace espalier::script

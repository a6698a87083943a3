#include "espalier/script/export_module.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>

namespace espalier::script {
namespace {

// "a.b.c" → {"a.b", "c"}; "c" → {"", "c"}.
std::pair<std::string, std::string> split_name(const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return {"", name};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

}  // namespace

ModuleTree::ModuleTree(const ParameterSet& weights)
    : unit_(std::make_shared<::torch::jit::CompilationUnit>()) {
  for (const ParameterInfo& info : weights.layout().tensors()) {
    float* values = const_cast<float*>(weights.values(info).data());  // from_blob only reads here
    at::Tensor tensor = at::from_blob(values, info.shape, at::kFloat).clone();
    const auto [owner, name] = split_name(info.name);
    if (is_trainable(info.role)) {
      at(owner).register_parameter(name, tensor.requires_grad_(true), false);
    } else {
      at(owner).register_buffer(name, info.role == Role::kCounter ? tensor.to(at::kLong) : tensor);
    }
  }
}

::torch::jit::Module& ModuleTree::at(const std::string& name) {
  const auto found = modules_.find(name);
  if (found != modules_.end()) return found->second;
  // Class names must be identifiers of Python; the dots of a nested module would be packages.
  std::string identifier = "Espalier";
  for (const char c : name) identifier += c == '.' ? '_' : c;
  ::torch::jit::Module made(c10::QualifiedName("__torch__." + identifier), unit_,
                            /*shouldMangle=*/true);
  made.register_attribute("training", c10::BoolType::get(), false);
  if (!name.empty()) {
    const auto [parent, child] = split_name(name);
    at(parent).register_module(child, made);
  }
  return modules_.emplace(name, std::move(made)).first->second;
}

std::string ModuleTree::expression(std::string_view name) {
  std::string text = "self";
  while (!name.empty()) {
    const size_t dot = std::min(name.find('.'), name.size());
    const std::string part(name.substr(0, dot));
    // Members of a sequence are called by number, which is no identifier.
    const bool number = std::isdigit(static_cast<unsigned char>(part[0])) != 0;
    text = number ? "getattr(" + text + ", \"" + part + "\")" : text + "." + part;
    name.remove_prefix(std::min(dot + 1, name.size()));
  }
  return text;
}

::torch::jit::Module ModuleTree::define(const std::string& source) && {
  ::torch::jit::Module root = at("");
  root.define(source);
  root.eval();
  return root;
}

}  // namespace espalier::script

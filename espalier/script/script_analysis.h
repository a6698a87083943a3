#pragma once

#include <torch/csrc/jit/api/module.h>

#include <set>
#include <string>

// What a module's code does with its attributes, without running it.
namespace espalier::script {

struct ScriptAnalysis {
  // Attributes that forward may write, "encoder.norm.running_mean": by an operator that works in
  // place (on them, on views of them, inside lists and tuples), or by assignment. More rather than
  // fewer: what cannot be followed counts as written.
  std::set<std::string> written;
  // Some write could not be followed to an attribute: any may be written.
  bool anything_written = false;
  // Whether it draws random numbers.
  bool random = false;

  bool writes(const std::string& attribute) const {
    return anything_written || written.contains(attribute);
  }
};

// Of `forward`, with everything that it calls.
ScriptAnalysis analyse(const ::torch::jit::Module& module);

}  // namespace espalier::script

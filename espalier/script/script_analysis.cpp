#include "espalier/script/script_analysis.h"

#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <map>
#include <optional>
#include <unordered_map>
#include <unordered_set>

namespace espalier::script {
namespace {

namespace prim = c10::prim;
using ::torch::jit::Block;
using ::torch::jit::Node;
using ::torch::jit::Value;

bool is_object(const Value* value) {
  return value->type()->cast<c10::ClassType>() != nullptr ||
         value->type()->cast<c10::InterfaceType>() != nullptr;
}

// Normalizations write their running statistics, and their schemas do not say so.
bool writes_statistics(const Node* node, const std::string& argument) {
  const std::string name = node->kind().toUnqualString();
  return name.find("_norm") != std::string::npos && argument.starts_with("running_");
}

bool draws(const Node* node) {
  if (node->isNondeterministic()) return true;
  const std::string name = node->kind().toUnqualString();
  for (const char* part : {"dropout", "rand", "bernoulli", "multinomial", "scaled_dot_product"}) {
    if (name.find(part) != std::string::npos) return true;
  }
  const auto* schema = node->maybeSchema();
  if (schema == nullptr) return false;
  for (const auto& argument : schema->arguments()) {
    if (argument.name() == "generator" || argument.name() == "dropout") return true;
  }
  return false;
}

class Analysis {
 public:
  ScriptAnalysis run(const ::torch::jit::Module& module) {
    const auto graph = module.get_method("forward").graph()->copy();
    ::torch::jit::Inline(*graph);
    paths_[graph->inputs()[0]] = "";
    walk(graph->block());
    for (const auto& [value, path] : read_) {
      seen_.clear();
      if (written(value)) out_.written.insert(path);
    }
    return out_;
  }

 private:
  void walk(Block* block) {
    for (Node* node : block->nodes()) {
      out_.random |= draws(node);
      const auto kind = node->kind();
      if (kind == prim::GetAttr) {
        const auto owner = path(node->input());
        const std::string name = node->s(c10::attr::name);
        if (owner) {
          const std::string full = owner->empty() ? name : *owner + "." + name;
          if (is_object(node->output()))
            paths_[node->output()] = full;
          else
            read_.emplace_back(node->output(), full);
        } else if (!is_object(node->output())) {
          seen_.clear();
          out_.anything_written |= written(node->output());
        }
      } else if (kind == prim::SetAttr) {
        const auto owner = path(node->input(0));
        const std::string name = node->s(c10::attr::name);
        if (owner)
          out_.written.insert(owner->empty() ? name : *owner + "." + name);
        else
          out_.anything_written = true;
      } else if (kind == prim::CallMethod || kind == prim::CallFunction || kind == prim::fork ||
                 node->hasAttribute(c10::attr::Subgraph)) {
        out_.anything_written = out_.random = true;  // code that was not inlined
      }
      for (Block* inner : node->blocks()) walk(inner);
    }
  }

  std::optional<std::string> path(Value* object) const {
    const auto found = paths_.find(object);
    return found == paths_.end() ? std::nullopt : std::optional(found->second);
  }

  // Whether something writes into the value, or into what it becomes a part of.
  bool written(Value* value) {
    if (!seen_.insert(value).second) return false;
    for (const auto& use : value->uses()) {
      if (written_by(use.user, use.offset)) return true;
    }
    return false;
  }

  bool any_output(Node* node) {
    for (Value* output : node->outputs()) {
      if (written(output)) return true;
    }
    return false;
  }

  bool written_by(Node* user, size_t offset) {
    const auto kind = user->kind();
    if (kind == prim::Return) {
      // Of a branch or a loop's body: the values go on as the outputs of the node around it.
      Node* around = user->owningBlock()->owningNode();
      if (around == nullptr) return false;
      if (around->kind() != prim::Loop) return written(around->outputs().at(offset));
      if (offset == 0) return false;
      return written(around->outputs().at(offset - 1)) ||
             written(around->blocks()[0]->inputs().at(offset));
    }
    if (kind == prim::Loop) {
      if (offset < 2) return false;
      return written(user->blocks()[0]->inputs().at(offset - 1)) ||
             written(user->outputs().at(offset - 2));
    }
    if (kind == prim::If || kind == prim::RaiseException || kind == prim::Print) return false;
    if (kind == prim::SetAttr) return true;  // it gets a second name, which may be written
    if (kind == prim::TupleConstruct || kind == prim::ListConstruct ||
        kind == prim::DictConstruct || kind == prim::TupleUnpack || kind == prim::ListUnpack ||
        kind == prim::TupleIndex || kind == prim::TupleSlice || kind == prim::unchecked_cast ||
        kind == prim::unchecked_unwrap_optional) {
      return any_output(user);
    }
    const auto* schema = user->maybeSchema();
    if (schema == nullptr) return true;
    if (offset >= schema->arguments().size()) return false;  // of an operator that takes any number
    const c10::Argument& argument = schema->arguments()[offset];
    if (writes_statistics(user, argument.name())) return true;
    const auto* alias = argument.alias_info();
    if (alias == nullptr) return false;
    return alias->isWrite() || any_output(user);
  }

  ScriptAnalysis out_;
  std::unordered_map<Value*, std::string> paths_;     // of objects
  std::vector<std::pair<Value*, std::string>> read_;  // attributes that are no objects
  std::unordered_set<Value*> seen_;
};

}  // namespace

ScriptAnalysis analyse(const ::torch::jit::Module& module) { return Analysis().run(module); }

}  // namespace espalier::script

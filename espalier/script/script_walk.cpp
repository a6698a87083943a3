#include "espalier/script/script_walk.h"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier::script {

namespace prim = c10::prim;

void ScriptWalk::bind(const at::Tensor& tensor, Axes axes) {
  alive_.push_back(tensor);
  axes_[tensor.unsafeGetTensorImpl()] = std::move(axes);
}

void ScriptWalk::bind_whole(const at::Tensor& tensor) {
  Axes axes;
  for (const int64_t extent : tensor.sizes())
    axes.emplace_back(static_cast<size_t>(extent), ScriptLabels::kWhole);
  bind(tensor, std::move(axes));
}

void ScriptWalk::run(const ::torch::jit::Module& module, const at::Tensor& input) {
  const ::torch::jit::Method method = module.get_method("forward");
  const auto graph = method.graph()->copy();
  ::torch::jit::Inline(*graph);
  bind_whole(input);
  values_[graph->inputs()[0]] = module._ivalue();
  const auto& arguments = method.function().getSchema().arguments();
  for (size_t i = 1; i < graph->inputs().size(); ++i) {
    values_[graph->inputs()[i]] =
        i == 1 ? c10::IValue(input) : arguments[i].default_value().value_or(c10::IValue());
  }
  run(graph->block());
  const c10::IValue& output = values_.at(graph->outputs()[0]);
  join_whole(output);
}

// Whatever leaves the module: logits, features, and what else it returns.
void ScriptWalk::join_whole(const c10::IValue& value) {
  if (const Axes* axes = find(value); axes != nullptr) {
    for (const Axis& axis : *axes) labels_.join_whole(axis);
  } else if (value.isTuple()) {
    for (const c10::IValue& part : value.toTupleRef().elements()) join_whole(part);
  } else if (value.isList()) {
    for (const c10::IValue& part : value.toListRef()) join_whole(part);
  } else if (value.isGenericDict()) {
    for (const auto& item : value.toGenericDict()) join_whole(item.value());
  }
}

void ScriptWalk::run(::torch::jit::Block* block) {
  for (::torch::jit::Node* node : block->nodes()) run(node);
}

void ScriptWalk::run(::torch::jit::Node* node) {
  const auto value = [&](size_t i) -> const c10::IValue& { return values_.at(node->input(i)); };
  const auto give = [&](::torch::jit::Block* block, size_t first) {
    std::vector<c10::IValue> results;
    for (size_t i = first; i < block->outputs().size(); ++i)
      results.push_back(values_.at(block->outputs()[i]));
    return results;
  };
  const auto kind = node->kind();
  if (kind == prim::Constant) {
    values_[node->output()] = ::torch::jit::toIValue(node->output()).value_or(c10::IValue());
  } else if (kind == prim::GetAttr) {
    values_[node->output()] = value(0).toObject()->getAttr(node->s(c10::attr::name));
  } else if (kind == prim::SetAttr) {
    value(0).toObject()->setAttr(node->s(c10::attr::name), value(1));
  } else if (kind == prim::If) {
    ::torch::jit::Block* taken = node->blocks()[value(0).toBool() ? 0 : 1];
    run(taken);
    const auto results = give(taken, 0);
    for (size_t i = 0; i < results.size(); ++i) values_[node->outputs()[i]] = results[i];
  } else if (kind == prim::Loop) {
    ::torch::jit::Block* body = node->blocks()[0];
    const int64_t trips = value(0).toInt();
    bool more = value(1).toBool();
    std::vector<c10::IValue> carried;
    for (size_t i = 2; i < node->inputs().size(); ++i) carried.push_back(value(i));
    for (int64_t trip = 0; more && trip < trips; ++trip) {
      values_[body->inputs()[0]] = trip;
      for (size_t i = 0; i < carried.size(); ++i) values_[body->inputs()[i + 1]] = carried[i];
      run(body);
      more = values_.at(body->outputs()[0]).toBool();
      carried = give(body, 1);
    }
    for (size_t i = 0; i < carried.size(); ++i) values_[node->outputs()[i]] = carried[i];
  } else {
    run_operator(node);
  }
}

void ScriptWalk::run_operator(::torch::jit::Node* node) {
  std::vector<c10::IValue> in;
  for (const ::torch::jit::Value* input : node->inputs())
    in.push_back(values_.at(const_cast<::torch::jit::Value*>(input)));
  ::torch::jit::Stack stack;
  const auto kind = node->kind();
  // Instructions of TorchScript's interpreter that move values about.
  if (kind == prim::ListConstruct) {
    c10::impl::GenericList list(
        node->output()->type()->expectRef<c10::ListType>().getElementType());
    for (const c10::IValue& value : in) list.push_back(value);
    stack.emplace_back(std::move(list));
  } else if (kind == prim::DictConstruct) {
    const auto& type = node->output()->type()->expectRef<c10::DictType>();
    c10::impl::GenericDict dict(type.getKeyType(), type.getValueType());
    for (size_t i = 0; i + 1 < in.size(); i += 2) dict.insert_or_assign(in[i], in[i + 1]);
    stack.emplace_back(std::move(dict));
  } else if (kind == prim::TupleConstruct) {
    stack.emplace_back(c10::ivalue::Tuple::create(in));
  } else if (kind == prim::TupleUnpack) {
    stack = in[0].toTupleRef().elements().vec();
  } else if (kind == prim::ListUnpack) {
    stack = in[0].toListRef().vec();
    if (stack.size() != node->outputs().size())
      fail("train/script_units", "a list of ", stack.size(), " is taken apart into ",
           node->outputs().size());
  } else if (kind == prim::Uninitialized) {
    stack.emplace_back();
  } else if (kind == prim::unchecked_cast) {
    stack = in;
  } else if (node->maybeOperator() != nullptr) {
    stack = in;
    node->getOperation()(stack);
    const std::vector<c10::IValue> out(stack.begin(), stack.end());
    apply({node->kind().toQualString(), in, out});
  } else {
    fail("train/script_units", "operator ", node->kind().toQualString(), " cannot be followed");
  }
  for (size_t i = 0; i < node->outputs().size(); ++i)
    values_[node->outputs()[i]] = stack.at(stack.size() - node->outputs().size() + i);
}

const ScriptWalk::Axes* ScriptWalk::find(const at::Tensor& tensor) const {
  if (!tensor.defined()) return nullptr;
  const auto found = axes_.find(tensor.unsafeGetTensorImpl());
  return found == axes_.end() ? nullptr : &found->second;
}

const ScriptWalk::Axes* ScriptWalk::find(const c10::IValue& value) const {
  return value.isTensor() ? find(value.toTensor()) : nullptr;
}

bool ScriptWalk::refuse(const c10::IValue& value, const std::string& reason) {
  bool tracked = false;
  if (const Axes* axes = find(value); axes != nullptr) {
    for (const Axis& axis : *axes) {
      tracked |= labels_.tracked(axis);
      labels_.refuse(axis, reason);
    }
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) tracked |= refuse(element, reason);
  } else if (value.isTuple()) {
    for (const c10::IValue& element : value.toTupleRef().elements())
      tracked |= refuse(element, reason);
  }
  return tracked;
}

// Not so after an operator that changes a tensor's shape in place.
bool ScriptWalk::shapes_hold(const std::vector<c10::IValue>& values) const {
  return std::ranges::all_of(values, [&](const c10::IValue& value) {
    const Axes* axes = find(value);
    return axes == nullptr ||
           std::ranges::equal(*axes, value.toTensor().sizes(), {},
                              [](const Axis& axis) { return static_cast<int64_t>(axis.size()); });
  });
}

void ScriptWalk::apply(const Call& call) {
  for (const c10::IValue& value : call.out) {
    if (value.isTensor() && value.toTensor().defined()) alive_.push_back(value.toTensor());
    if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) alive_.push_back(tensor);
    }
  }
  const auto rule = rules().find(call.name);
  if (rule != rules().end() && shapes_hold(call.in)) {
    try {
      if ((this->*rule->second)(call)) return;
    } catch (const c10::Error&) {
      // An argument of another kind than the rule reads: an overload that is not analysed.
    }
  }
  const std::string reason = rule == rules().end()
                                 ? concat("operator ", call.name, " is not analysed")
                                 : concat("this use of ", call.name, " is not analysed");
  bool any = false, tracked = false;
  for (const c10::IValue& value : call.in) {
    any |= find(value) != nullptr;
    tracked |= refuse(value, reason);
  }
  // Whatever is made of the input alone is as whole as the input.
  for (const c10::IValue& value : call.out) {
    if (any && !tracked && value.isTensor() && value.toTensor().defined())
      bind_whole(value.toTensor());
  }
}

}  // namespace espalier::script

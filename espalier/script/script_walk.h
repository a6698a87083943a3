#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "espalier/script/script_labels.h"

// Runs a TorchScript module's forward once, operator by operator, and follows which units stand on
// which axis of every value. Because every operator really runs, shapes are exact, loops unroll and
// branches are the ones taken; a value is known by its tensor, so lists, tuples and attributes need
// no rule.
namespace espalier::script {

class ScriptWalk {
 public:
  using Axis = ScriptLabels::Axis;
  using Axes = std::vector<Axis>;

  explicit ScriptWalk(ScriptLabels& labels) : labels_(labels) {}
  // What is known of a tensor, before the walk: parameters, and the input (whole).
  void bind(const at::Tensor& tensor, Axes axes);
  void bind_whole(const at::Tensor& tensor);
  // The module's attributes must be the bound tensors. Its output is declared whole. Throws
  // c10::Error or std::runtime_error where the module does, Error for control flow that cannot be
  // followed.
  void run(const ::torch::jit::Module& module, const at::Tensor& input);

 private:
  struct Call {
    std::string name;  // "aten::conv2d"
    const std::vector<c10::IValue>& in;
    const std::vector<c10::IValue>& out;
  };
  using Rule = bool (ScriptWalk::*)(const Call&);
  static const std::unordered_map<std::string, Rule>& rules();

  void run(::torch::jit::Block* block);
  void run(::torch::jit::Node* node);
  void run_operator(::torch::jit::Node* node);
  void apply(const Call& call);
  void join_whole(const c10::IValue& value);

  // Labels of a tensor; nullptr when nothing is known of it.
  const Axes* find(const at::Tensor& tensor) const;
  const Axes* find(const c10::IValue& value) const;
  // The same, but a tensor of which nothing is known becomes one that keeps whole what it meets.
  Axes known(const at::Tensor& tensor, const std::string& name);
  Axis refused_axis(int64_t extent, const std::string& reason);
  // An axis that an operator gave another extent.
  Axis resized(const Axis& axis, int64_t extent, const std::string& reason);
  bool shapes_hold(const std::vector<c10::IValue>& values) const;
  // Returns whether the value carried what is not whole by nature.
  bool refuse(const c10::IValue& value, const std::string& reason);
  // Joins two axes of equal extent.
  void meet(const at::Tensor& a, size_t axis_a, const at::Tensor& b, size_t axis_b,
            const std::string& name);
  // The same for the axes that a product sums over.
  void contract(const at::Tensor& a, size_t axis_a, const at::Tensor& b, size_t axis_b,
                const std::string& name);
  void refuse_if_tracked(const Axis& axis, const std::string& reason);

  // Rules: false when the operator is used in a way that is not analysed.
  bool elementwise(const Call& call);
  bool combine(const Call& call);
  bool prelu(const Call& call);
  bool convolution(const Call& call);
  bool linear(const Call& call);
  bool product(const Call& call);
  bool batch_norm(const Call& call);
  bool normalize(const Call& call);
  bool pool(const Call& call);
  bool reduce(const Call& call);
  bool softmax(const Call& call);
  bool reshape(const Call& call);
  bool permute(const Call& call);
  bool expand(const Call& call);
  bool concatenate(const Call& call);
  bool select(const Call& call);
  bool slice(const Call& call);
  bool embedding(const Call& call);
  bool nothing(const Call& call);

  ScriptLabels& labels_;
  std::unordered_map<const at::TensorImpl*, Axes> axes_;
  std::vector<at::Tensor> alive_;  // so that no address is used twice
  std::unordered_map<::torch::jit::Value*, c10::IValue> values_;
};

}  // namespace espalier::script

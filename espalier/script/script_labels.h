#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "espalier/params/layout.h"

// Which indices of a model's tensors are the same unit. Every index of every axis of every
// parameter starts as a label of its own; the operators that read the parameters join labels (a
// convolution's input channels with the channels that come in) or declare them whole. What is left
// in the end is one class per channel or neuron, and classes that stand on the same axes are a
// group. Free of libtorch.
namespace espalier::script {

class ScriptLabels {
 public:
  using Label = int32_t;
  using Axis = std::vector<Label>;    // one label per index
  static constexpr Label kWhole = 0;  // of what is never dropped by nature: input, logits, pixels

  ScriptLabels();
  // `count` fresh labels; an axis of one index is whole, for nothing of it can be dropped.
  Axis add_axis(int64_t count);
  // Index by index; both axes must have the same extent.
  void join(const Axis& a, const Axis& b);
  void join_whole(const Axis& axis);
  // The axis stays whole because its use could not be analysed.
  void refuse(const Axis& axis, const std::string& reason);
  // Only what some layer computes and another reads is a unit.
  void mark_computed(const Axis& axis);
  void mark_read(const Axis& axis);
  // Whether some index is not whole by nature.
  bool tracked(const Axis& axis) const;

  // Groups of the tensors whose axes have these labels (labels[t][axis]): fills tensors[t].units
  // and returns the groups, in order of their first tensor. Classes that stand in no order that
  // AxisUnits can describe are refused.
  std::vector<UnitGroup> groups(const std::vector<std::vector<Axis>>& labels,
                                std::vector<ParameterInfo>& tensors);
  // After groups(): for every reason the layers that stay whole for it, in order of appearance.
  std::vector<std::pair<std::string, std::vector<std::string>>> refusals(
      const std::vector<std::vector<Axis>>& labels,
      const std::vector<ParameterInfo>& tensors) const;

 private:
  struct Class {
    bool natural = false, computed = false, read = false;
    int reason = -1;
  };
  size_t find(Label label) const;
  void join(Label a, Label b);
  bool is_unit(size_t root) const;

  mutable std::vector<Label> parents_;
  std::vector<Class> classes_;
  std::vector<std::string> reasons_;
};

// "block.conv1" of "block.conv1.weight".
std::string layer_name(const std::string& tensor);

}  // namespace espalier::script

#include "espalier/submodel/growth.h"

#include <cmath>
#include <vector>

#include "espalier/base/error.h"

namespace espalier::submodel {

namespace {

// Whether the sub-net has an index of this axis.
std::vector<char> kept_indices(const ParameterInfo& tensor, int axis,
                               std::span<const UnitGroup> groups, std::span<const int64_t> kept) {
  std::vector<char> has(static_cast<size_t>(tensor.shape[static_cast<size_t>(axis)]), 1);
  for (const AxisUnits& units : tensor.units) {
    if (units.axis != axis) continue;
    const auto group = static_cast<size_t>(units.group);
    for (int64_t block = 0; block < units.blocks; ++block) {
      for (int64_t unit = kept[group]; unit < groups[group].size; ++unit) {
        const int64_t first = units.offset + (block * groups[group].size + unit) * units.repeat;
        for (int64_t i = 0; i < units.repeat; ++i) has[static_cast<size_t>(first + i)] = 0;
      }
    }
  }
  return has;
}

}  // namespace

void begin_small(ParameterSet& model, std::span<const int64_t> kept) {
  const auto& groups = model.layout().groups();
  ESPALIER_CHECK(kept.size() == groups.size(), kept.size(), " of ", groups.size(), " groups");
  for (const ParameterInfo& tensor : model.layout().tensors()) {
    if (tensor.role != Role::kWeight) continue;
    // Axis 0 is what a tensor computes, the others what it computes it from.
    std::vector<char> inputs = {1};
    for (size_t axis = 1; axis < tensor.shape.size(); ++axis) {
      const std::vector<char> has = kept_indices(tensor, static_cast<int>(axis), groups, kept);
      std::vector<char> longer;
      longer.reserve(inputs.size() * has.size());
      for (const char outer : inputs) {
        for (const char inner : has) longer.push_back(static_cast<char>(outer & inner));
      }
      inputs = std::move(longer);
    }
    size_t there = 0;
    for (const char one : inputs) there += static_cast<size_t>(one);
    if (there == inputs.size() || there == 0) continue;
    const auto scale = static_cast<float>(
        std::sqrt(static_cast<double>(inputs.size()) / static_cast<double>(there)));
    const std::span<float> values = model.values(tensor);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = inputs[i % inputs.size()] != 0 ? values[i] * scale : 0;
  }
}

}  // namespace espalier::submodel

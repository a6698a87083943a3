#pragma once

#include <memory>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/params/layout.h"

// For tests of everything that keeps some units: layouts with every kind of coupling, and which
// coordinates stay, straight from the meaning of AxisUnits.
namespace espalier {

// Groups: 0 conv1 (6), 1 conv2 (5), 2 fc1 (40), 3 LSTM (7).
inline std::shared_ptr<const ParameterLayout> units_layout() {
  const AxisUnits gates{.axis = 0, .group = 3, .blocks = 4};
  std::vector<ParameterInfo> tensors = {
      {.name = "conv1.weight", .shape = {6, 2, 3, 3}, .units = {{.axis = 0, .group = 0}}},
      {.name = "conv1.bias", .shape = {6}, .role = Role::kBias, .units = {{.group = 0}}},
      {.name = "conv2.weight",
       .shape = {5, 6, 5, 5},
       .units = {{.axis = 0, .group = 1}, {.axis = 1, .group = 0}}},
      // Two groups on one axis, after three indices of no unit, with one more between them.
      {.name = "both.weight",
       .shape = {9, 3 + 6 + 1 + 2 * 5},
       .units = {{.axis = 1, .group = 0, .offset = 3},
                 {.axis = 1, .group = 1, .repeat = 2, .offset = 10}}},
      {.name = "fc1.weight",
       .shape = {40, 5 * 49},
       .units = {{.axis = 0, .group = 2}, {.axis = 1, .group = 1, .repeat = 49}}},
      {.name = "wide.weight", .shape = {40, 3000}, .units = {{.axis = 0, .group = 2}}},
      {.name = "lstm.weight", .shape = {28, 40}, .units = {gates, {.axis = 1, .group = 2}}},
      {.name = "lstm.state", .shape = {28, 7}, .units = {gates, {.axis = 1, .group = 3}}},
      {.name = "lstm.bias", .shape = {28}, .role = Role::kBias, .units = {gates}},
      {.name = "steps", .shape = {}, .role = Role::kCounter},
      {.name = "nothing", .shape = {4, 0}},
      {.name = "fc2.weight", .shape = {10, 7}, .units = {{.axis = 1, .group = 3}}},
      {.name = "fc2.bias", .shape = {10}, .role = Role::kBias},
      {.name = "deep",
       .shape = {2, 7, 3, 40},
       .units = {{.axis = 1, .group = 3}, {.axis = 3, .group = 2}}},
  };
  return std::make_shared<const ParameterLayout>(
      std::move(tensors),
      std::vector<UnitGroup>{{"conv1", 6}, {"conv2", 5}, {"fc1", 40}, {"lstm", 7}});
}

// At least one unit of every group, each kept with probability about `keep`.
inline std::vector<std::vector<uint32_t>> random_units(const ParameterLayout& layout, double keep,
                                                       Key key) {
  std::vector<std::vector<uint32_t>> kept;
  Stream stream(key);
  for (const UnitGroup& group : layout.groups()) {
    kept.emplace_back();
    for (uint32_t unit = 0; unit < group.size; ++unit) {
      if (stream.uniform() < keep) kept.back().push_back(unit);
    }
    if (kept.back().empty())
      kept.back().push_back(static_cast<uint32_t>(stream.below(static_cast<uint64_t>(group.size))));
  }
  return kept;
}

inline std::vector<int64_t> counts(const std::vector<std::vector<uint32_t>>& kept) {
  std::vector<int64_t> sizes;
  for (const auto& group : kept) sizes.push_back(static_cast<int64_t>(group.size()));
  return sizes;
}

// The coordinates that stay, in order: value by value, from its index on every axis.
inline std::vector<size_t> kept_coordinates(const ParameterLayout& layout,
                                            const std::vector<std::vector<uint32_t>>& kept) {
  std::vector<size_t> coordinates;
  for (const ParameterInfo& tensor : layout.tensors()) {
    for (int64_t value = 0; value < tensor.size; ++value) {
      std::vector<int64_t> index(tensor.shape.size());
      int64_t rest = value;
      for (size_t axis = tensor.shape.size(); axis-- > 0;) {
        index[axis] = rest % tensor.shape[axis];
        rest /= tensor.shape[axis];
      }
      bool stays = true;
      for (const AxisUnits& part : tensor.units) {
        const auto group = static_cast<size_t>(part.group);
        const int64_t size = layout.groups()[group].size;
        const int64_t place = index[static_cast<size_t>(part.axis)] - part.offset;
        if (place < 0 || place >= part.blocks * size * part.repeat) continue;
        const int64_t unit = place / part.repeat % size;
        bool found = false;
        for (const uint32_t k : kept[group]) found = found || k == unit;
        stays = stays && found;
      }
      if (stays) coordinates.push_back(static_cast<size_t>(tensor.offset + value));
    }
  }
  return coordinates;
}

}  // namespace espalier

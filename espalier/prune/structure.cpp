#include "espalier/prune/structure.h"

#include "espalier/base/error.h"
#include "espalier/params/unit_rows.h"
#include "espalier/prune/bits.h"

namespace espalier::prune {
namespace {

using Flags = std::vector<std::vector<bool>>;  // by group and unit

template <class T>
std::vector<std::vector<T>> per_unit(const ParameterLayout& layout) {
  std::vector<std::vector<T>> values;
  for (const UnitGroup& group : layout.groups())
    values.emplace_back(static_cast<size_t>(group.size), T{});
  return values;
}

// Marks the units of one axis of a tensor at which a value is not zero.
void mark_nonzero(const ParameterSet& model, const ParameterInfo& tensor, const AxisUnits& part,
                  std::vector<bool>& marks) {
  const auto values = model.values(tensor);
  const int64_t extent = tensor.shape[static_cast<size_t>(part.axis)];
  int64_t inner = 1;
  for (size_t axis = static_cast<size_t>(part.axis) + 1; axis < tensor.shape.size(); ++axis)
    inner *= tensor.shape[axis];
  for (size_t at = 0; at < values.size(); at += static_cast<size_t>(inner)) {
    const int64_t index = static_cast<int64_t>(at) / inner % extent;
    const int64_t unit = unit_at(model.layout(), part, index);
    if (unit < 0 || marks[static_cast<size_t>(unit)]) continue;
    for (size_t i = at; i < at + static_cast<size_t>(inner); ++i) {
      if (values[i] != 0.0f) {
        marks[static_cast<size_t>(unit)] = true;
        break;
      }
    }
  }
}

}  // namespace

std::vector<std::vector<uint32_t>> kept_units(const Mask& mask, double threshold) {
  const ParameterLayout& layout = *mask.layout();
  if (!(threshold >= 0 && threshold <= 1))
    fail("prune/structure", "expected a threshold from 0 to 1, got ", threshold);
  auto all = per_unit<uint64_t>(layout), left = all;
  for_each_incoming_row(layout, [&](size_t group, size_t unit, size_t begin, size_t end) {
    all[group][unit] += end - begin;
    left[group][unit] += count_bits(mask.words(), begin, end);
  });
  std::vector<std::vector<uint32_t>> kept(all.size());
  for (size_t g = 0; g < all.size(); ++g) {
    size_t strongest = 0;
    for (size_t u = 0; u < all[g].size(); ++u) {
      if (left[g][u] > left[g][strongest]) strongest = u;
    }
    for (size_t u = 0; u < all[g].size(); ++u) {
      const auto pruned = static_cast<double>(all[g][u] - left[g][u]);
      if (u == strongest || !(pruned > threshold * static_cast<double>(all[g][u])))
        kept[g].push_back(static_cast<uint32_t>(u));
    }
  }
  return kept;
}

Mask without_units(const Mask& mask, const std::vector<std::vector<uint32_t>>& kept) {
  const submodel::Submodel part(mask.layout(), kept);
  const auto& tensors = mask.layout()->tensors();
  std::vector<uint64_t> stays(mask.words().size(), 0);
  for (size_t t = 0; t < tensors.size(); ++t) {
    const auto begin = static_cast<size_t>(tensors[t].offset);
    if (!is_trainable(tensors[t].role)) {
      set_bits(stays, begin, begin + static_cast<size_t>(tensors[t].size));
      continue;
    }
    const CoordinateMap::Block& block = part.map().blocks()[t];
    for (const uint32_t r : block.rows) {
      const size_t row = block.full_offset + r * block.full_columns;
      if (block.whole_rows()) {
        set_bits(stays, row, row + block.full_columns);
        continue;
      }
      for (const uint32_t column : block.columns) set_bits(stays, row + column, row + column + 1);
    }
  }
  return Mask::both(mask, Mask(mask.layout(), std::move(stays)));
}

std::vector<std::vector<uint32_t>> live_units(const ParameterSet& model) {
  const ParameterLayout& layout = model.layout();
  Flags read = per_unit<bool>(layout), computed = read;
  std::vector<bool> has_readers(layout.groups().size(), false), has_makers = has_readers;
  for (const ParameterInfo& tensor : layout.tensors()) {
    if (!is_trainable(tensor.role)) continue;
    for (const AxisUnits& part : tensor.units) {
      const auto g = static_cast<size_t>(part.group);
      // An embedding's columns are what it computes.
      const bool makes = part.axis == 0 || tensor.role == Role::kEmbedding;
      (makes ? has_makers : has_readers)[g] = true;
      mark_nonzero(model, tensor, part, (makes ? computed : read)[g]);
    }
  }
  std::vector<std::vector<uint32_t>> live(layout.groups().size());
  for (size_t g = 0; g < live.size(); ++g) {
    for (size_t u = 0; u < read[g].size(); ++u) {
      // A group that nothing reads (or makes) by weights of this model is not dead for that.
      if ((read[g][u] || !has_readers[g]) && (computed[g][u] || !has_makers[g]))
        live[g].push_back(static_cast<uint32_t>(u));
    }
    if (live[g].empty()) live[g].push_back(0);
  }
  return live;
}

}  // namespace espalier::prune

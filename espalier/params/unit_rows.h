#pragma once

#include <cstdint>

#include "espalier/params/layout.h"

namespace espalier {

// The unit of `part`'s group that `index` of its axis belongs to, or −1.
inline int64_t unit_at(const ParameterLayout& layout, const AxisUnits& part, int64_t index) {
  const int64_t size = layout.groups()[static_cast<size_t>(part.group)].size;
  const int64_t place = index - part.offset;
  if (place < 0 || place >= part.blocks * size * part.repeat) return -1;
  return place / part.repeat % size;
}

// Calls visit(group, unit, first value, end) for every row of incoming weights: a row of a tensor
// of role weight that computes a unit. In order of tensors and rows.
template <class Visit>
void for_each_incoming_row(const ParameterLayout& layout, Visit&& visit) {
  for (const ParameterInfo& tensor : layout.tensors()) {
    if (tensor.role != Role::kWeight || tensor.size == 0) continue;
    for (const AxisUnits& part : tensor.units) {
      if (part.axis != 0) continue;
      const int64_t columns = tensor.size / tensor.shape[0];
      for (int64_t row = 0; row < tensor.shape[0]; ++row) {
        const int64_t unit = unit_at(layout, part, row);
        if (unit < 0) continue;
        const int64_t begin = tensor.offset + row * columns;
        visit(static_cast<size_t>(part.group), static_cast<size_t>(unit),
              static_cast<size_t>(begin), static_cast<size_t>(begin + columns));
      }
    }
  }
}

// Whether a group's units stand on the rows of a tensor of role weight: its rows are incoming
// weights.
inline bool computes_units(const ParameterInfo& tensor) {
  if (tensor.role != Role::kWeight) return false;
  for (const AxisUnits& part : tensor.units) {
    if (part.axis == 0) return true;
  }
  return false;
}

}  // namespace espalier

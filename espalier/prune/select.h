#pragma once

#include <cstdint>
#include <span>

// Selection from scores: what criteria.h offers over tensors, over one list of numbers.
namespace espalier::prune {

// The k-th smallest, 1 ≤ k ≤ n. −0 counts as +0; NaN is an Error.
float kth_smallest(std::span<const float> values, uint64_t k);

// Whether each of the values is among the `count` greatest, the first of equals before later ones:
// calls keep(index) for these, in increasing order.
template <class Keep>
void for_each_greatest(std::span<const float> values, uint64_t count, Keep&& keep) {
  if (count == 0) return;
  const float least = kth_smallest(values, values.size() - count + 1);
  uint64_t above = 0;
  for (const float value : values) above += value > least ? 1 : 0;
  uint64_t equals = count - above;
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < least || (values[i] == least && equals == 0)) continue;
    if (values[i] == least) --equals;
    keep(i);
  }
}

}  // namespace espalier::prune

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/data/dataset.h"

// What the fuzzers of the readers do with a data set that was read: check it as load_dataset does
// and use its first samples.
namespace espalier::data {

inline void use_dataset(const Dataset& dataset) {
  dataset.validate();
  std::vector<uint32_t> indices(std::min<size_t>(dataset.size(), 3));
  for (size_t i = 0; i < indices.size(); ++i)
    indices[i] = static_cast<uint32_t>(dataset.size() - 1 - i);
  const size_t values = indices.size() * dataset.sample_size();
  if (dataset.kind == Kind::kTokens) {
    std::vector<int64_t> out(values);
    gather_tokens(dataset, indices, out);
  } else {
    std::vector<float> out(values);
    const Augmentation augmentation{2, true, 3};
    gather(dataset, indices, &augmentation, Key(1), out);
  }
}

}  // namespace espalier::data

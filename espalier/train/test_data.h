#pragma once

#include <vector>

#include "espalier/data/dataset.h"

// Small data sets for the tests of this module.
namespace espalier::train {

// Noisy images whose class shows as a bright block, so that a model can learn them.
inline data::Dataset block_images(std::vector<int64_t> shape, size_t count, int64_t classes) {
  data::Dataset set;
  set.name = "blocks";
  set.sample_shape = shape;
  set.num_classes = classes;
  const auto channels = static_cast<size_t>(shape[0]), height = static_cast<size_t>(shape[1]),
             width = static_cast<size_t>(shape[2]);
  set.mean.assign(channels, 0.25f);
  set.stddev.assign(channels, 0.5f);
  Stream stream(Key(7));
  for (size_t i = 0; i < count; ++i) {
    const size_t label = i % static_cast<size_t>(classes);
    set.labels.push_back(static_cast<int32_t>(label));
    for (size_t y = 0; y < height; ++y) {
      for (size_t x = 0; x < width; ++x) {
        const bool lit = x * static_cast<size_t>(classes) / width == label;
        for (size_t c = 0; c < channels; ++c)
          set.pixels.push_back(static_cast<uint8_t>(stream.below(100) + (lit ? 120 : 0)));
      }
    }
  }
  set.validate();
  return set;
}

inline std::vector<uint32_t> first_samples(size_t count) {
  std::vector<uint32_t> indices(count);
  for (size_t i = 0; i < count; ++i) indices[i] = static_cast<uint32_t>(i);
  return indices;
}

}  // namespace espalier::train

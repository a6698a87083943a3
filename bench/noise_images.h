#pragma once

#include <vector>

#include "espalier/base/random.h"
#include "espalier/data/dataset.h"

namespace espalier::bench {

// `count` images of noise with labels of noise, ten classes: what they cost is what images cost.
inline data::Dataset noise_images(const std::vector<int64_t>& shape, size_t count) {
  data::Dataset set;
  set.name = "bench";
  set.sample_shape = shape;
  set.num_classes = 10;
  set.mean.assign(static_cast<size_t>(shape[0]), 0.5f);
  set.stddev.assign(static_cast<size_t>(shape[0]), 0.25f);
  Stream stream(Key(1));
  set.pixels.resize(count * set.sample_size());
  for (uint8_t& pixel : set.pixels) pixel = static_cast<uint8_t>(stream.u32());
  for (size_t i = 0; i < count; ++i) set.labels.push_back(static_cast<int32_t>(stream.below(10)));
  set.validate();
  return set;
}

}  // namespace espalier::bench

#include "espalier/data/fingerprint.h"

#include <gtest/gtest.h>

#include <functional>

namespace espalier::data {
namespace {

Dataset small() {
  Dataset set;
  set.kind = Kind::kImage;
  set.sample_shape = {1, 1, 2};
  set.num_classes = 3;
  set.pixels = {1, 2, 3, 4};
  set.labels = {0, 2};
  set.mean = {0.5f};
  set.stddev = {1};
  set.client_of_sample = {0, 1};
  set.client_names = {"a", "b"};
  return set;
}

TEST(Fingerprint, KnowsWhatARunDependsOnAndNothingElse) {
  const uint64_t before = fingerprint(small());
  EXPECT_EQ(fingerprint(small()), before);
  const std::function<void(Dataset&)> changes[] = {
      [](Dataset& set) { set.pixels[3] ^= 1; },
      [](Dataset& set) { std::swap(set.labels[0], set.labels[1]); },
      [](Dataset& set) { set.sample_shape = {2, 1, 1}; },
      [](Dataset& set) { set.num_classes = 4; },
      [](Dataset& set) { set.client_of_sample = {1, 0}; },
      [](Dataset& set) { set.client_names = {"ab", ""}; },
      [](Dataset& set) { set.pixels = {1, 2}, set.labels = {0}; },
  };
  for (size_t i = 0; i < std::size(changes); ++i) {
    Dataset other = small();
    changes[i](other);
    EXPECT_NE(fingerprint(other), before) << i;
  }
  Dataset same = small();
  same.name = "another name";
  same.mean = {0.25f};  // the model's
  EXPECT_EQ(fingerprint(same), before);
}

}  // namespace
}  // namespace espalier::data

#include "espalier/params/parameter_set.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "espalier/base/error.h"

namespace espalier {
namespace {

std::shared_ptr<const ParameterLayout> small_layout() {
  return std::make_shared<ParameterLayout>(
      std::vector<ParameterInfo>{{"fc.weight", {2, 3}, Role::kWeight},
                                 {"fc.bias", {2}, Role::kBias},
                                 {"bn.count", {}, Role::kCounter}});
}

TEST(ParameterLayout, OffsetsAndCounts) {
  const auto layout = small_layout();
  EXPECT_EQ(layout->size(), 9);
  EXPECT_EQ(layout->num_trainable(), 8);
  EXPECT_EQ(layout->find("fc.bias")->offset, 6);
  EXPECT_EQ(layout->find("nothing"), nullptr);
  EXPECT_EQ(shape_text({2, 3}), "[2, 3]");
}

TEST(ParameterLayout, RejectsImpossibleTensors) {
  EXPECT_THROW(ParameterLayout({{"a", {1}}, {"a", {1}}}), Error);
  EXPECT_THROW(ParameterLayout({{"a", {-1}}}), Error);
  EXPECT_THROW(ParameterLayout({{"a", {int64_t{1} << 30, int64_t{1} << 30}}}), Error);
}

TEST(ParameterSet, ValuesAreAlignedViews) {
  ParameterSet set(small_layout());
  set.values("fc.bias")[1] = 5;
  EXPECT_EQ(set.values()[7], 5);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(set.values().data()) % 64, 0u);
  const ParameterSet copy = set;
  set.values()[7] = 6;
  EXPECT_EQ(copy.values("fc.bias")[1], 5);
}

TEST(ParameterSet, Arithmetic) {
  std::vector<float> a(19), b(19), out(19);
  for (size_t i = 0; i < 19; ++i) a[i] = static_cast<float>(i), b[i] = 1;
  subtract(a, b, out);
  EXPECT_EQ(out[18], 17);
  add_scaled(out, 2, b);
  EXPECT_EQ(out[0], 1);
  EXPECT_EQ(squared_norm(a), 18.0 * 19 * 37 / 6);
  EXPECT_TRUE(all_finite(a));
  a[17] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(all_finite(a));
  a[17] = std::nanf("");
  EXPECT_FALSE(all_finite(a));
}

}  // namespace
}  // namespace espalier

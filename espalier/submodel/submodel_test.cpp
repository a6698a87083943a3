#include "espalier/submodel/submodel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "espalier/base/error.h"
#include "espalier/params/test_units.h"
#include "espalier/submodel/selection.h"

namespace espalier::submodel {
namespace {

// Every value has its own bits; among them NaNs, infinities and −0.
ParameterSet distinct(const std::shared_ptr<const ParameterLayout>& layout) {
  ParameterSet set(layout);
  uint32_t i = 0;
  for (float& value : set.values()) value = std::bit_cast<float>(0x80000000u ^ (i++ * 2654435761u));
  return set;
}

bool same_bits(const ParameterSet& a, const ParameterSet& b) {
  return a.size() == b.size() &&
         std::memcmp(a.values().data(), b.values().data(), a.values().size_bytes()) == 0;
}

// The MNIST net of McMahan et al. 2017 on 28×28 pixels: 1,663,370 parameters.
std::shared_ptr<const ParameterLayout> mnist_cnn() {
  const auto tensor = [](std::string name, std::vector<int64_t> shape,
                         std::vector<AxisUnits> units) {
    return ParameterInfo{
        .name = std::move(name), .shape = std::move(shape), .units = std::move(units)};
  };
  std::vector<ParameterInfo> tensors = {
      tensor("conv1.weight", {32, 1, 5, 5}, {{.axis = 0, .group = 0}}),
      tensor("conv1.bias", {32}, {{.axis = 0, .group = 0}}),
      tensor("conv2.weight", {64, 32, 5, 5}, {{.axis = 0, .group = 1}, {.axis = 1, .group = 0}}),
      tensor("conv2.bias", {64}, {{.axis = 0, .group = 1}}),
      tensor("fc1.weight", {512, 3136},
             {{.axis = 0, .group = 2}, {.axis = 1, .group = 1, .repeat = 49}}),
      tensor("fc1.bias", {512}, {{.axis = 0, .group = 2}}),
      tensor("fc2.weight", {10, 512}, {{.axis = 1, .group = 2}}),
      tensor("fc2.bias", {10}, {}),
  };
  return std::make_shared<const ParameterLayout>(
      std::move(tensors), std::vector<UnitGroup>{{"conv1", 32}, {"conv2", 64}, {"fc1", 512}});
}

TEST(Submodel, MergeAfterExtractChangesNothing) {
  for (const auto& layout : {units_layout(), mnist_cnn()}) {
    for (const SelectionRow& method : selection_rows()) {
      const auto sub = choose_submodel(method, layout, 0.6, 3, Key(4));
      const ParameterSet before = distinct(layout);
      ParameterSet after = before;
      sub->merge(sub->extract(before), after);
      EXPECT_TRUE(same_bits(before, after)) << method.name;
    }
  }
}

TEST(Submodel, MergeWritesTheCoveredValuesAndNoOthers) {
  const auto layout = units_layout();
  const auto kept = random_units(*layout, 0.5, Key(8));
  const Submodel sub(layout, kept);
  ParameterSet full = distinct(layout), small(sub.layout()), expected = full;
  for (size_t i = 0; i < small.size(); ++i) small.values()[i] = static_cast<float>(i);
  const auto coordinates = kept_coordinates(*layout, kept);
  ASSERT_EQ(coordinates.size(), small.size());
  ASSERT_LT(coordinates.size(), full.size());
  for (size_t i = 0; i < coordinates.size(); ++i)
    expected.values()[coordinates[i]] = static_cast<float>(i);
  sub.merge(small, full);
  EXPECT_TRUE(same_bits(full, expected));
  EXPECT_TRUE(same_bits(sub.extract(full), small));
}

TEST(Submodel, ExtractUsesMemoryAgain) {
  const auto layout = units_layout();
  const auto a = choose_submodel(find_selection("federated-dropout"), layout, 0.5, 1, Key(1));
  const auto b = choose_submodel(find_selection("federated-dropout"), layout, 0.5, 1, Key(2));
  const ParameterSet full = distinct(layout);
  ParameterSet out;
  a->extract(full, out);
  EXPECT_TRUE(same_bits(out, a->extract(full)));
  const float* const memory = out.values().data();
  b->extract(full, out);
  EXPECT_EQ(out.values().data(), memory);
  EXPECT_TRUE(same_bits(out, b->extract(full)));
  const auto larger = choose_submodel(find_selection("ordered"), layout, 0.9, 1, Key(1));
  larger->extract(full, out);
  EXPECT_EQ(out.layout(), *larger->layout());
  EXPECT_TRUE(same_bits(out, larger->extract(full)));
}

TEST(Submodel, KeepingAllIsTheWholeModel) {
  const auto layout = units_layout();
  for (const SelectionRow& method : selection_rows()) {
    const auto sub = choose_submodel(method, layout, 1.0, 5, Key(4));
    EXPECT_TRUE(sub->whole());
    EXPECT_EQ(*sub->layout(), *layout);
    EXPECT_EQ(sub->units(), layout->group_sizes());
    const ParameterSet full = distinct(layout);
    EXPECT_TRUE(same_bits(sub->extract(full), full));
    EXPECT_FALSE(choose_submodel(method, layout, 0.9, 5, Key(4))->whole());
  }
}

TEST(Submodel, SmallerOrderedSubmodelsLieInsideLargerOnes) {
  const auto layout = units_layout();
  const auto& ordered = find_selection("ordered");
  std::vector<size_t> inner;
  for (const double keep : {0.0625, 0.125, 0.25, 0.5, 0.75, 1.0}) {
    const auto sub = choose_submodel(ordered, layout, keep, 1, Key(1));
    const auto coordinates = kept_coordinates(*layout, sub->kept());
    EXPECT_TRUE(std::includes(coordinates.begin(), coordinates.end(), inner.begin(), inner.end()));
    EXPECT_GT(coordinates.size(), inner.size());
    inner = coordinates;
  }
}

TEST(Submodel, ThreeQuartersOfTheMnistNet) {
  const auto layout = mnist_cnn();
  ASSERT_EQ(layout->size(), 1663370);
  for (const SelectionRow& method : selection_rows()) {
    const auto sub = choose_submodel(method, layout, 0.75, 7, Key(2));
    EXPECT_EQ(sub->units(), (std::vector<int64_t>{24, 48, 384}));
    const int64_t expected = (25 + 1) * 24 + (24 * 25 + 1) * 48 + (48 * 49 + 1) * 384 + 385 * 10;
    EXPECT_EQ(sub->layout()->size(), expected);
    EXPECT_NEAR(static_cast<double>(layout->size()) / static_cast<double>(expected), 1.78, 0.005);
  }
}

TEST(Submodel, RejectsUnitsThatDoNotExist) {
  const auto layout = mnist_cnn();
  EXPECT_NO_THROW(Submodel(layout, {{31}, {0, 63}, {511}}));
  EXPECT_THROW(Submodel(layout, {{32}, {0}, {0}}), Error);
  EXPECT_THROW(Submodel(layout, {{1, 0}, {0}, {0}}), Error);
  EXPECT_THROW(Submodel(layout, {{}, {0}, {0}}), Error);
  EXPECT_THROW(Submodel(layout, {{0}, {0}}), Error);
}

}  // namespace
}  // namespace espalier::submodel

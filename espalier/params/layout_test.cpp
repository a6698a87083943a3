#include "espalier/params/layout.h"

#include <gtest/gtest.h>

#include <limits>

#include "espalier/base/error.h"
#include "espalier/params/hidden_outputs.h"
#include "espalier/params/test_units.h"

namespace espalier {
namespace {

using Shape = std::vector<int64_t>;

TEST(NarrowLayout, ShrinksBlocksRepeatsAndOffsets) {
  const auto layout = units_layout();
  const auto small = narrow_layout(*layout, Shape{4, 2, 10, 3});
  EXPECT_EQ(small->group_sizes(), (Shape{4, 2, 10, 3}));
  const auto shape = [&](const char* name) { return small->find(name)->shape; };
  EXPECT_EQ(shape("conv1.weight"), (Shape{4, 2, 3, 3}));
  EXPECT_EQ(shape("conv1.bias"), (Shape{4}));
  EXPECT_EQ(shape("conv2.weight"), (Shape{2, 4, 5, 5}));
  EXPECT_EQ(shape("fc1.weight"), (Shape{10, 2 * 49}));
  EXPECT_EQ(shape("lstm.weight"), (Shape{4 * 3, 10}));
  EXPECT_EQ(shape("lstm.bias"), (Shape{4 * 3}));
  EXPECT_EQ(shape("fc2.weight"), (Shape{10, 3}));
  EXPECT_EQ(shape("steps"), Shape{});
  EXPECT_EQ(shape("nothing"), (Shape{4, 0}));
  EXPECT_EQ(shape("deep"), (Shape{2, 3, 3, 10}));
  // Three loose indices, four units, one loose index, two units of two.
  const ParameterInfo& both = *small->find("both.weight");
  EXPECT_EQ(both.shape, (Shape{9, 3 + 4 + 1 + 2 * 2}));
  ASSERT_EQ(both.units.size(), 2u);
  EXPECT_EQ(both.units[0].offset, 3);
  EXPECT_EQ(both.units[1].offset, 8);
}

TEST(NarrowLayout, TwiceIsTheSameAsOnce) {
  const auto layout = units_layout();
  const auto once = narrow_layout(*layout, Shape{3, 1, 7, 2});
  const auto twice = narrow_layout(*narrow_layout(*layout, Shape{5, 4, 20, 6}), Shape{3, 1, 7, 2});
  EXPECT_EQ(*once, *twice);
  for (size_t t = 0; t < once->tensors().size(); ++t)
    EXPECT_EQ(once->tensors()[t].units, twice->tensors()[t].units);
}

TEST(NarrowLayout, AllUnitsIsTheSameLayout) {
  const auto layout = units_layout();
  const auto same = narrow_layout(*layout, layout->group_sizes());
  EXPECT_EQ(*same, *layout);
  EXPECT_EQ(same->size(), layout->size());
}

TEST(NarrowLayout, RejectsNumbersThatDoNotFit) {
  const auto layout = units_layout();
  EXPECT_THROW(narrow_layout(*layout, Shape{6, 5, 40}), Error);
  EXPECT_THROW(narrow_layout(*layout, Shape{6, 5, 40, 7, 1}), Error);
  EXPECT_THROW(narrow_layout(*layout, Shape{7, 5, 40, 7}), Error);
  EXPECT_THROW(narrow_layout(*layout, Shape{6, 0, 40, 7}), Error);
  EXPECT_THROW(narrow_layout(*layout, Shape{6, -1, 40, 7}), Error);
}

// One tensor [8, 12], a group of 4 and one of 3.
ParameterLayout with_units(std::vector<AxisUnits> units) {
  return ParameterLayout({{.name = "w", .shape = {8, 12}, .units = std::move(units)}},
                         {{"a", 4}, {"b", 3}});
}

TEST(ParameterLayout, ChecksThatUnitsFitTheirAxis) {
  EXPECT_NO_THROW(with_units({{.axis = 0, .group = 0, .repeat = 2}}));
  EXPECT_NO_THROW(with_units({{.axis = 0, .group = 0, .blocks = 2}}));
  EXPECT_NO_THROW(with_units({{.axis = 1, .group = 0}, {.axis = 1, .group = 1, .offset = 9}}));
  const std::vector<std::vector<AxisUnits>> bad = {
      {{.axis = 2, .group = 0}},
      {{.axis = -1, .group = 0}},
      {{.axis = 0, .group = 2}},
      {{.axis = 0, .group = -1}},
      {{.axis = 0, .group = 0, .blocks = 0}},
      {{.axis = 0, .group = 0, .repeat = 0}},
      {{.axis = 0, .group = 0, .repeat = 3}},
      {{.axis = 0, .group = 0, .offset = 5}},
      {{.axis = 0, .group = 0, .offset = -1}},
      {{.axis = 0, .group = 0, .blocks = int64_t{1} << 62}},
      {{.axis = 0, .group = 0, .blocks = int64_t{1} << 32, .repeat = int64_t{1} << 31}},
      {{.axis = 0, .group = 0, .offset = std::numeric_limits<int64_t>::max()}},
      // Out of order, and one over another.
      {{.axis = 1, .group = 0}, {.axis = 0, .group = 0}},
      {{.axis = 1, .group = 0}, {.axis = 1, .group = 1, .offset = 3}},
  };
  for (size_t i = 0; i < bad.size(); ++i) EXPECT_THROW(with_units(bad[i]), Error) << i;
}

TEST(ParameterLayout, WeightsAndBiasesOfUnitsMakeHiddenOutputsAndGatesDoNot) {
  const std::vector<AxisUnits> rows = {{.axis = 0, .group = 0}};
  EXPECT_TRUE(makes_hidden_outputs({.name = "conv.weight", .shape = {4, 3}, .units = rows}));
  EXPECT_TRUE(makes_hidden_outputs(
      {.name = "conv.bias", .shape = {4}, .role = Role::kBias, .units = rows}));
  EXPECT_FALSE(makes_hidden_outputs(
      {.name = "norm.weight", .shape = {4}, .role = Role::kNorm, .units = rows}));
  EXPECT_FALSE(makes_hidden_outputs({.name = "conv.gate.weight", .shape = {4, 3}, .units = rows}));
  EXPECT_FALSE(makes_hidden_outputs(
      {.name = "out.weight", .shape = {2, 4}, .units = {{.axis = 1, .group = 0}}}));
}

TEST(ParameterLayout, RejectsDuplicatesAndImpossibleShapes) {
  EXPECT_THROW(ParameterLayout({{.name = "w", .shape = {1}}, {.name = "w", .shape = {2}}}), Error);
  EXPECT_THROW(ParameterLayout({{.name = "w", .shape = {-1}}}), Error);
  EXPECT_THROW(ParameterLayout({{.name = "w", .shape = {int64_t{1} << 30, 1 << 20}}}), Error);
}

}  // namespace
}  // namespace espalier

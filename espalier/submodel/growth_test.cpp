#include "espalier/submodel/growth.h"

#include <gtest/gtest.h>

#include <cmath>

namespace espalier::submodel {
namespace {

ParameterInfo tensor(std::string name, std::vector<int64_t> shape, Role role,
                     std::vector<AxisUnits> units) {
  ParameterInfo info{.name = std::move(name), .shape = std::move(shape), .role = role};
  info.units = std::move(units);
  return info;
}

TEST(Growth, InputsFromUnitsThatAreLackingAreZeroAndTheOthersMakeUpForThem) {
  // conv: 2 channels in, 4 out; linear: from its 4 channels of 2 pixels each.
  const auto layout = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{
          tensor("conv.weight", {4, 2, 1, 2}, Role::kWeight, {{.axis = 0, .group = 0}}),
          tensor("conv.bias", {4}, Role::kBias, {{.axis = 0, .group = 0}}),
          tensor("linear.weight", {3, 8}, Role::kWeight, {{.axis = 1, .group = 0, .repeat = 2}})},
      std::vector<UnitGroup>{{"conv", 4}});
  ParameterSet model(layout);
  for (float& value : model.values()) value = 1;
  begin_small(model, std::vector<int64_t>{3});
  // Its inputs are no units: as drawn, those of the fourth channel too.
  for (const float value : model.values("conv.weight")) EXPECT_EQ(value, 1);
  for (const float value : model.values("conv.bias")) EXPECT_EQ(value, 1);
  const auto linear = model.values("linear.weight");
  for (size_t row = 0; row < 3; ++row) {
    for (size_t i = 0; i < 8; ++i)
      EXPECT_EQ(linear[row * 8 + i], i < 6 ? std::sqrt(8.0f / 6.0f) : 0.0f) << row << " " << i;
  }
}

TEST(Growth, BlocksOfUnitsAreAllLeftOut) {
  // An LSTM's hidden units feed back on axis 1; its four gates are blocks on axis 0.
  const auto layout = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{
          tensor("hidden.weight", {8, 2}, Role::kWeight,
                 {{.axis = 0, .group = 0, .blocks = 4}, {.axis = 1, .group = 0}})},
      std::vector<UnitGroup>{{"lstm", 2}});
  ParameterSet model(layout);
  for (float& value : model.values()) value = 2;
  begin_small(model, std::vector<int64_t>{1});
  const auto values = model.values();
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_FLOAT_EQ(values[i], i % 2 == 0 ? 2 * std::sqrt(2.0f) : 0.0f);
  begin_small(model, std::vector<int64_t>{2});  // whole: nothing changes
  EXPECT_EQ(model.values()[1], 0);
}

}  // namespace
}  // namespace espalier::submodel

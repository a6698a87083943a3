#include "espalier/submodel/selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "espalier/base/error.h"

namespace espalier::submodel {
namespace {

std::vector<uint32_t> choose(const char* method, int64_t size, int64_t count, uint32_t round,
                             Key key = Key(1)) {
  const std::vector<double> scores(static_cast<size_t>(size), 1.0);
  return find_selection(method).choose(
      {.size = size, .count = count, .round = round, .key = key, .scores = scores});
}

TEST(Selection, EveryMethodKeepsTheRightNumberInOrder) {
  for (const SelectionRow& method : selection_rows()) {
    for (const int64_t size : {1, 2, 7, 64, 1000}) {
      for (int64_t count = 1; count <= size; count += 1 + size / 5) {
        for (const uint32_t round : {1u, 2u, 65u, 4000000000u}) {
          const auto units = choose(method.name.c_str(), size, count, round, Key(round));
          ASSERT_EQ(units.size(), static_cast<size_t>(count)) << method.name;
          for (size_t i = 1; i < units.size(); ++i) ASSERT_LT(units[i - 1], units[i]);
          ASSERT_LT(units.back(), size);
        }
      }
    }
  }
}

TEST(Selection, DependsOnKeyAndRoundAsTheTableSays) {
  for (const SelectionRow& method : selection_rows()) {
    const auto units = choose(method.name.c_str(), 100, 50, 1);
    EXPECT_EQ(units, choose(method.name.c_str(), 100, 50, 1)) << method.name;
    EXPECT_EQ(units != choose(method.name.c_str(), 100, 50, 1, Key(2)), method.random)
        << method.name;
    EXPECT_EQ(units != choose(method.name.c_str(), 100, 50, 2), method.moves) << method.name;
  }
}

TEST(Selection, OrderedKeepsTheFirst) {
  EXPECT_EQ(choose("ordered", 9, 3, 5), (std::vector<uint32_t>{0, 1, 2}));
}

TEST(Selection, RollingMovesByOneAndWraps) {
  EXPECT_EQ(choose("rolling", 5, 3, 1), (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_EQ(choose("rolling", 5, 3, 2), (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(choose("rolling", 5, 3, 4), (std::vector<uint32_t>{0, 3, 4}));
  EXPECT_EQ(choose("rolling", 5, 3, 6), (std::vector<uint32_t>{0, 1, 2}));
}

TEST(Selection, RollingKeepsEveryUnitEquallyOftenInOneTurn) {
  constexpr int64_t kSize = 13, kCount = 4;
  std::vector<int> times(kSize, 0);
  for (uint32_t round = 1; round <= kSize; ++round) {
    for (const uint32_t unit : choose("rolling", kSize, kCount, round)) ++times[unit];
  }
  EXPECT_EQ(times, std::vector<int>(kSize, kCount));
}

TEST(Selection, RandomKeepsEveryUnitAndEveryPairEquallyOften) {
  constexpr int64_t kSize = 12, kCount = 5;
  constexpr int kDraws = 20000;
  std::vector<int> pairs(kSize * kSize, 0);  // the diagonal counts single units
  for (uint64_t draw = 0; draw < kDraws; ++draw) {
    const auto units = choose("federated-dropout", kSize, kCount, 1, Key(3).child(draw));
    for (const uint32_t a : units) {
      for (const uint32_t b : units) ++pairs[a * kSize + b];
    }
  }
  for (size_t a = 0; a < kSize; ++a) {
    for (size_t b = 0; b <= a; ++b) {
      const double p = a == b ? 5.0 / 12 : 5.0 * 4 / (12 * 11);
      const double deviation = std::sqrt(kDraws * p * (1 - p));
      EXPECT_NEAR(pairs[a * kSize + b], kDraws * p, 4.5 * deviation) << a << " " << b;
    }
  }
}

// Two of three units with scores 1, 2 and 5: {a, b} comes as a then b or b then a, with
// probabilities s_a/8 · s_b/(8 − s_a) + s_b/8 · s_a/(8 − s_b).
TEST(Selection, ImportanceDrawsInProportionToTheScores) {
  const std::vector<double> scores = {1, 2, 5};
  constexpr int kDraws = 20000;
  std::map<std::vector<uint32_t>, int> times;
  for (uint64_t draw = 0; draw < kDraws; ++draw) {
    ++times[find_selection("importance")
                .choose({.size = 3, .count = 2, .key = Key(5).child(draw), .scores = scores})];
  }
  const std::map<std::vector<uint32_t>, double> expected = {
      {{0, 1}, 1. / 8 * 2 / 7 + 2. / 8 * 1 / 6},
      {{0, 2}, 1. / 8 * 5 / 7 + 5. / 8 * 1 / 3},
      {{1, 2}, 2. / 8 * 5 / 6 + 5. / 8 * 2 / 3}};
  for (const auto& [units, p] : expected)
    EXPECT_NEAR(times[units], kDraws * p, 4.5 * std::sqrt(kDraws * p * (1 - p)));
}

TEST(Selection, ImportanceTakesUnitsOfScoreZeroLast) {
  const std::vector<double> scores = {0, 3, 0, 1e-300, 0};
  for (uint64_t draw = 0; draw < 50; ++draw) {
    const UnitChoice choice{.size = 5, .count = 3, .key = Key(draw), .scores = scores};
    const auto units = find_selection("importance").choose(choice);
    EXPECT_TRUE(std::ranges::count(units, 1u) == 1 && std::ranges::count(units, 3u) == 1);
  }
}

// conv.weight {2, 1, 1, 2} = (3 4 | 0 0) and the projection of the same residual stream (0 12 | 1
// 0): √(25 + 144) and 1; the second axis counts nothing.
TEST(Selection, NormsAreThoseOfTheWeightsThatComputeAUnit) {
  const auto layout = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{
          {.name = "conv.weight", .shape = {2, 1, 1, 2}, .units = {{.axis = 0, .group = 0}}},
          {.name = "conv.bias",
           .shape = {2},
           .role = Role::kBias,
           .units = {{.axis = 0, .group = 0}}},
          {.name = "down.weight", .shape = {2, 2}, .units = {{.axis = 0, .group = 0}}},
          {.name = "fc.weight", .shape = {3, 2}, .units = {{.axis = 1, .group = 0}}}},
      std::vector<UnitGroup>{{"conv", 2}});
  const ParameterSet model(layout,
                           AlignedVector<float>{3, 4, 0, 0, 9, 9, 0, 12, 1, 0, 7, 7, 7, 7, 7, 7});
  EXPECT_EQ(incoming_norms(model), (UnitScores{{13, 1}}));
}

TEST(Selection, NamedLayersStayWhole) {
  const auto layout = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{.name = "a", .shape = {8}, .units = {{.axis = 0, .group = 0}}},
                                 {.name = "b", .shape = {6}, .units = {{.axis = 0, .group = 1}}}},
      std::vector<UnitGroup>{{"a", 8}, {"b", 6}});
  EXPECT_EQ(kept_units(0.5, *layout), (std::vector<int64_t>{4, 3}));
  EXPECT_EQ(kept_units(0.5, *layout, {"b"}), (std::vector<int64_t>{4, 6}));
}

TEST(Selection, GroupsDrawByThemselves) {
  const auto layout = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{.name = "a", .shape = {64}, .units = {{.axis = 0, .group = 0}}},
                                 {.name = "b", .shape = {64}, .units = {{.axis = 0, .group = 1}}}},
      std::vector<UnitGroup>{{"a", 64}, {"b", 64}});
  const auto& random = find_selection("federated-dropout");
  const auto sub = choose_submodel(random, layout, 0.5, 1, Key(1));
  EXPECT_NE(sub->kept()[0], sub->kept()[1]);
  EXPECT_EQ(sub->kept(), choose_submodel(random, layout, 0.5, 9, Key(1))->kept());
  EXPECT_NE(sub->kept(), choose_submodel(random, layout, 0.5, 1, Key(2))->kept());
}

TEST(Selection, KeptUnitsRoundsAndKeepsAtLeastOne) {
  EXPECT_EQ(kept_units(0.75, 64), 48);
  EXPECT_EQ(kept_units(0.5, 5), 3);
  EXPECT_EQ(kept_units(0.01, 10), 1);
  EXPECT_EQ(kept_units(0.0625, 1), 1);
  EXPECT_EQ(kept_units(1, 10), 10);
  for (const double bad : {0.0, -0.5, 1.0001, std::nan("")})
    EXPECT_THROW(kept_units(bad, 10), Error);
}

TEST(Selection, AnUnknownNameNamesTheNearest) {
  try {
    find_selection("roling");
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'rolling'"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace espalier::submodel

#include "espalier/prune/structure.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/params/test_units.h"
#include "espalier/prune/bits.h"

namespace espalier::prune {
namespace {

ParameterSet random_values(const std::shared_ptr<const ParameterLayout>& layout, Key key) {
  ParameterSet set(layout);
  Stream stream(key);
  for (float& value : set.values()) value = static_cast<float>(stream.normal());
  return set;
}

Mask random_mask(const std::shared_ptr<const ParameterLayout>& layout, double keep, Key key) {
  Stream stream(key);
  std::vector<uint64_t> words(num_words(static_cast<size_t>(layout->size())), 0);
  for (size_t i = 0; i < static_cast<size_t>(layout->size()); ++i)
    words[i / 64] |= uint64_t{stream.uniform() < keep ? 1u : 0u} << (i % 64);
  return Mask(layout, std::move(words));
}

// Two inputs, three hidden units, one output.
std::shared_ptr<const ParameterLayout> perceptron_layout(int64_t in, int64_t hidden, int64_t out) {
  return std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{
          {.name = "fc1.weight", .shape = {hidden, in}, .units = {{.axis = 0, .group = 0}}},
          {.name = "fc1.bias", .shape = {hidden}, .role = Role::kBias, .units = {{.group = 0}}},
          {.name = "fc2.weight", .shape = {out, hidden}, .units = {{.axis = 1, .group = 0}}},
          {.name = "fc2.bias", .shape = {out}, .role = Role::kBias}},
      std::vector<UnitGroup>{{"fc1", hidden}});
}

// fc2(relu(fc1 x)), in double.
std::vector<double> forward(const ParameterSet& model, const std::vector<double>& x) {
  const auto w1 = model.values("fc1.weight"), b1 = model.values("fc1.bias");
  const auto w2 = model.values("fc2.weight"), b2 = model.values("fc2.bias");
  std::vector<double> hidden(b1.size()), out(b2.size());
  for (size_t h = 0; h < hidden.size(); ++h) {
    double sum = static_cast<double>(b1[h]);
    for (size_t i = 0; i < x.size(); ++i) sum += static_cast<double>(w1[h * x.size() + i]) * x[i];
    hidden[h] = std::max(sum, 0.0);
  }
  for (size_t o = 0; o < out.size(); ++o) {
    out[o] = static_cast<double>(b2[o]);
    for (size_t h = 0; h < hidden.size(); ++h)
      out[o] += static_cast<double>(w2[o * hidden.size() + h]) * hidden[h];
  }
  return out;
}

TEST(Structure, KeptUnitsByHand) {
  const auto layout = perceptron_layout(4, 3, 1);
  // Rows of fc1.weight: 1 of 4 pruned, 2 of 4, 3 of 4.
  const Mask mask(layout, {0b1111'111'1000'0110'0111});
  using Units = std::vector<std::vector<uint32_t>>;
  EXPECT_EQ(kept_units(mask, 0.5), (Units{{0, 1}}));
  EXPECT_EQ(kept_units(mask, 0.4), (Units{{0}}));
  EXPECT_EQ(kept_units(mask, 0.75), (Units{{0, 1, 2}}));
  EXPECT_EQ(kept_units(mask, 0), (Units{{0}}));
  EXPECT_EQ(kept_units(Mask::all(layout), 0), (Units{{0, 1, 2}}));
  // Nothing is left of any: the first stays; else the one with the most left.
  EXPECT_EQ(kept_units(Mask(layout, {0}), 0.5), (Units{{0}}));
  EXPECT_EQ(kept_units(Mask(layout, {0b0001'0000'0000}), 0.5), (Units{{2}}));
  EXPECT_THROW(kept_units(mask, 1.5), Error);
}

TEST(Structure, KeptUnitsCountAllTensorsThatCompute) {
  const auto layout = units_layout();
  const Mask mask = random_mask(layout, 0.4, Key(1));
  for (const double threshold : {0.55, 0.6, 0.62}) {
    const auto kept = kept_units(mask, threshold);
    for (size_t g = 0; g < layout->groups().size(); ++g) {
      std::vector<uint64_t> left, all;
      const auto units = static_cast<uint32_t>(layout->groups()[g].size);
      for (uint32_t u = 0; u < units; ++u) {
        // What disappears when the unit goes, within rows of weights, is what computes it.
        uint64_t l = 0, a = 0;
        for (const ParameterInfo& tensor : layout->tensors()) {
          if (tensor.role != Role::kWeight) continue;
          for (const AxisUnits& part : tensor.units) {
            if (part.axis != 0 || part.group != static_cast<int>(g)) continue;
            for (int64_t i = 0; i < tensor.size; ++i) {
              const int64_t row = i / (tensor.size / tensor.shape[0]);
              if (row / part.repeat % units != u) continue;
              ++a;
              l += mask.keeps(static_cast<size_t>(tensor.offset + i)) ? 1 : 0;
            }
          }
        }
        left.push_back(l);
        all.push_back(a);
      }
      const auto strongest =
          static_cast<uint32_t>(std::max_element(left.begin(), left.end()) - left.begin());
      std::vector<uint32_t> expected;
      for (uint32_t u = 0; u < units; ++u) {
        const bool goes =
            static_cast<double>(all[u] - left[u]) > threshold * static_cast<double>(all[u]);
        if (!goes || u == strongest) expected.push_back(u);
      }
      EXPECT_EQ(kept[g], expected) << g;
    }
  }
}

TEST(Structure, WithoutUnitsPrunesEveryTrainableValueOfThem) {
  const auto layout = units_layout();
  for (const double keep : {0.2, 0.7, 1.0}) {
    const auto units = random_units(*layout, keep, Key(2));
    const Mask mask = random_mask(layout, 0.8, Key(3));
    const Mask result = without_units(mask, units);
    std::vector<bool> stays(static_cast<size_t>(layout->size()), false);
    for (const size_t i : kept_coordinates(*layout, units)) stays[i] = true;
    for (const ParameterInfo& tensor : layout->tensors()) {
      for (int64_t v = 0; v < tensor.size; ++v) {
        const auto i = static_cast<size_t>(tensor.offset + v);
        ASSERT_EQ(result.keeps(i), mask.keeps(i) && (stays[i] || !is_trainable(tensor.role))) << i;
      }
    }
  }
}

TEST(Structure, StatisticsOfUnitsThatGoAreNotPruned) {
  const auto layout = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{
          {.name = "w", .shape = {2, 2}, .units = {{.group = 0}}},
          {.name = "norm", .shape = {2}, .role = Role::kNorm, .units = {{.group = 0}}},
          {.name = "mean", .shape = {2}, .role = Role::kStatistic, .units = {{.group = 0}}}},
      std::vector<UnitGroup>{{"w", 2}});
  EXPECT_EQ(without_units(Mask::all(layout), {{1}}).words()[0], 0b11'10'1100u);
}

TEST(Structure, LiveUnitsInverseOfRemoval) {
  const auto layout = units_layout();
  for (const double keep : {0.2, 0.7, 1.0}) {
    const auto units = random_units(*layout, keep, Key(4));
    ParameterSet model = random_values(layout, Key(5));
    without_units(Mask::all(layout), units).apply(model.values());
    EXPECT_EQ(live_units(model), units);
  }
}

TEST(Structure, DeadByEitherSide) {
  const auto layout = perceptron_layout(2, 5, 2);
  ParameterSet model = random_values(layout, Key(6));
  auto w1 = model.values("fc1.weight"), b1 = model.values("fc1.bias");
  auto w2 = model.values("fc2.weight");
  w1[2] = w1[3] = 0;              // unit 1: a constant, by its bias
  w1[4] = w1[5] = b1[2] = -0.0f;  // unit 2: nothing computes it
  w2[3] = w2[5 + 3] = 0;          // unit 3: nothing reads it
  w2[4] = 0;                      // unit 4: one output reads it
  EXPECT_EQ(live_units(model), (std::vector<std::vector<uint32_t>>{{0, 1, 4}}));
  EXPECT_EQ(live_units(ParameterSet(layout)), (std::vector<std::vector<uint32_t>>{{0}}));
}

TEST(Structure, AnEmbeddingsColumnsAreWhatItComputes) {
  const auto layout = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{
          {.name = "embedding",
           .shape = {3, 4},
           .role = Role::kEmbedding,
           .units = {{.axis = 1, .group = 0}}},
          {.name = "fc", .shape = {2, 4}, .units = {{.axis = 1, .group = 0}}}},
      std::vector<UnitGroup>{{"embedding", 4}});
  ParameterSet model = random_values(layout, Key(8));
  for (const size_t row : {0u, 1u, 2u}) model.values("embedding")[4 * row + 1] = 0;
  for (const size_t row : {0u, 1u}) model.values("fc")[4 * row + 2] = 0;
  EXPECT_EQ(live_units(model), (std::vector<std::vector<uint32_t>>{{0, 3}}));
}

TEST(Structure, TheSubmodelOfLiveUnitsComputesTheSameFunction) {
  const auto layout = perceptron_layout(6, 40, 3);
  Stream stream(Key(7));
  for (uint64_t seed = 0; seed < 20; ++seed) {
    ParameterSet model = random_values(layout, Key(seed));
    random_mask(layout, 0.3, Key(seed).child(1)).apply(model.values());
    const auto live = live_units(model);
    const submodel::Submodel part(layout, live);
    ASSERT_LT(live[0].size(), 40u);
    const ParameterSet small = part.extract(model);
    std::vector<double> x(6);
    for (double& value : x) value = stream.normal();
    const std::vector<double> a = forward(model, x), b = forward(small, x);
    for (size_t o = 0; o < a.size(); ++o) EXPECT_DOUBLE_EQ(a[o], b[o]);
  }
}

}  // namespace
}  // namespace espalier::prune

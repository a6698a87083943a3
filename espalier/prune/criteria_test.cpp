#include "espalier/prune/criteria.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/params/test_units.h"
#include "espalier/prune/select.h"

namespace espalier::prune {
namespace {

std::shared_ptr<const ParameterLayout> layout_of(std::vector<ParameterInfo> tensors,
                                                 std::vector<UnitGroup> groups = {}) {
  return std::make_shared<const ParameterLayout>(std::move(tensors), std::move(groups));
}

std::shared_ptr<const ParameterLayout> all_roles() {
  return layout_of({{.name = "w", .shape = {30, 40}},
                    {.name = "b", .shape = {30}, .role = Role::kBias},
                    {.name = "norm", .shape = {30}, .role = Role::kNorm},
                    {.name = "embedding", .shape = {50, 7}, .role = Role::kEmbedding},
                    {.name = "mean", .shape = {30}, .role = Role::kStatistic},
                    {.name = "steps", .shape = {}, .role = Role::kCounter},
                    {.name = "none", .shape = {0, 3}},
                    {.name = "w2", .shape = {9, 30}}});
}

// Normal numbers, of which about `ties` repeat a few.
ParameterSet random_scores(const std::shared_ptr<const ParameterLayout>& layout, double ties,
                           Key key) {
  ParameterSet set(layout);
  Stream stream(key);
  const float few[] = {0.0f, -0.0f, 1.0f, -1.0f, 0.5f};
  for (float& value : set.values())
    value = stream.uniform() < ties ? few[stream.below(5)] : static_cast<float>(stream.normal());
  return set;
}

ParameterSet set_of(const std::shared_ptr<const ParameterLayout>& layout,
                    std::initializer_list<float> values) {
  return ParameterSet(layout, AlignedVector<float>(values));
}

std::vector<float> list(const ParameterSet& set) {
  return {set.values().begin(), set.values().end()};
}

TEST(Select, KthSmallestEqualsASort) {
  Stream stream(Key(1));
  for (const size_t size : {1u, 2u, 100u, 5000u, 40000u}) {
    std::vector<float> values(size);
    for (float& value : values) {
      const double kind = stream.uniform();
      value = static_cast<float>(stream.normal());
      if (kind < 0.1) value = 0.0f;
      if (kind < 0.05) value = -0.0f;
      if (kind > 0.9) value = 1.0f;
      if (kind > 0.97) value = kind > 0.985 ? INFINITY : -INFINITY;
      if (kind > 0.4 && kind < 0.45) value *= 1e-42f;
    }
    std::vector<float> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    // The pooled one always selects by histograms, here over two tensors.
    const auto half = static_cast<int64_t>(size / 2), rest = static_cast<int64_t>(size) - half;
    const ParameterSet set(
        layout_of({{.name = "a", .shape = {half}}, {.name = "b", .shape = {rest}}}),
        AlignedVector<float>(values.begin(), values.end()));
    for (size_t step = 0; step <= 40; ++step) {
      const size_t k = 1 + step * (size - 1) / 40;
      EXPECT_EQ(kth_smallest(values, k), sorted[k - 1]) << size << " " << k;
      EXPECT_EQ(kth_smallest(set, {0, 1}, k), sorted[k - 1]) << size << " " << k;
      EXPECT_FALSE(std::signbit(kth_smallest(set, {0, 1}, k)) && sorted[k - 1] == 0);
    }
  }
  EXPECT_THROW(kth_smallest(std::vector<float>{1, NAN, 2}, 2), Error);
  const auto layout = layout_of({{.name = "a", .shape = {2}}, {.name = "b", .shape = {1}}});
  EXPECT_THROW(kth_smallest(set_of(layout, {1, -NAN, 3}), {0, 1}, 1), Error);
  EXPECT_EQ(kth_smallest(set_of(layout, {1, NAN, 3}), {1}, 1), 3);  // of the named tensors alone
}

TEST(Select, GreatestTakesTheFirstOfEquals) {
  const std::vector<float> values = {1, 3, 2, 3, 2, 2, 0};
  const auto greatest = [&](uint64_t count) {
    std::vector<size_t> kept;
    for_each_greatest(values, count, [&](size_t i) { kept.push_back(i); });
    return kept;
  };
  EXPECT_EQ(greatest(0), (std::vector<size_t>{}));
  EXPECT_EQ(greatest(1), (std::vector<size_t>{1}));
  EXPECT_EQ(greatest(4), (std::vector<size_t>{1, 2, 3, 4}));
  EXPECT_EQ(greatest(7).size(), 7u);
}

TEST(Select, PrunedCountIsTheCeilingOfTheDecimal) {
  EXPECT_EQ(pruned_count(0.07, 100), 7u);  // 0.07·100 is 7.000000000000001
  EXPECT_EQ(pruned_count(0.3, 10), 3u);
  EXPECT_EQ(pruned_count(0.3, 11), 4u);
  EXPECT_EQ(pruned_count(0, 11), 0u);
  EXPECT_EQ(pruned_count(1, 11), 11u);
  EXPECT_THROW(pruned_count(1.1, 11), Error);
  EXPECT_THROW(pruned_count(NAN, 11), Error);
}

TEST(ChooseMask, EqualsASortOfEverything) {
  for (const auto& layout : {all_roles(), units_layout()}) {
    for (const double ties : {0.0, 0.3, 1.0}) {
      const ParameterSet scores = random_scores(layout, ties, Key(2));
      for (const bool weights_only : {false, true}) {
        for (const double fraction : {0.0, 0.01, 0.3, 0.5, 0.77, 1.0}) {
          std::vector<bool> prunable(scores.size(), false);
          std::vector<float> pool;
          for (const ParameterInfo& tensor : layout->tensors()) {
            const Role role = tensor.role;
            const bool may = role == Role::kWeight || role == Role::kEmbedding ||
                             (!weights_only && (role == Role::kBias || role == Role::kNorm));
            for (int64_t v = 0; may && v < tensor.size; ++v) {
              prunable[static_cast<size_t>(tensor.offset + v)] = true;
              pool.push_back(scores.values(tensor)[static_cast<size_t>(v)]);
            }
          }
          std::sort(pool.begin(), pool.end());
          const uint64_t k = pruned_count(fraction, pool.size());
          const Mask mask =
              choose_mask(scores, {.fraction = fraction, .weights_only = weights_only});
          for (size_t i = 0; i < scores.size(); ++i) {
            const bool kept = k == 0 || !prunable[i] || scores.values()[i] > pool[k - 1];
            ASSERT_EQ(mask.keeps(i), kept) << fraction << " " << i;
          }
          if (ties == 0) {
            EXPECT_EQ(mask.kept(), scores.size() - k);
          }
        }
      }
    }
  }
}

TEST(ChooseMask, KeepsAShareOfEveryTensor) {
  const auto layout = all_roles();
  ParameterSet scores = random_scores(layout, 0.2, Key(3));
  for (float& score : scores.values("w2")) score -= 100;  // all of it would go
  const PruneRule rule{.fraction = 0.5, .min_keep = 0.11};
  const Mask plain = choose_mask(scores, {.fraction = 0.5}), mask = choose_mask(scores, rule);
  for (size_t t = 0; t < layout->tensors().size(); ++t) {
    const ParameterInfo& tensor = layout->tensors()[t];
    const uint64_t least = pruned_count(0.11, static_cast<uint64_t>(tensor.size));
    EXPECT_EQ(mask.kept(t), std::max(plain.kept(t), least)) << tensor.name;
    if (plain.kept(t) >= least) continue;
    // Those of the highest scores.
    std::vector<float> kept, gone;
    for (int64_t v = 0; v < tensor.size; ++v) {
      const float score = scores.values(tensor)[static_cast<size_t>(v)];
      (mask.keeps(static_cast<size_t>(tensor.offset + v)) ? kept : gone).push_back(score);
    }
    EXPECT_GE(*std::min_element(kept.begin(), kept.end()),
              *std::max_element(gone.begin(), gone.end()));
  }
  EXPECT_EQ(plain.kept(7), 0u);
}

TEST(ChooseMask, UnitsGoAsAWhole) {
  const auto layout = units_layout();
  const ParameterSet scores = random_scores(layout, 0, Key(4));
  ParameterSet expected = scores;  // with every incoming weight replaced by its unit's mean
  for (size_t g = 0; g < layout->groups().size(); ++g) {
    for (int64_t u = 0; u < layout->groups()[g].size; ++u) {
      std::vector<size_t> incoming;
      double sum = 0;
      for (const ParameterInfo& tensor : layout->tensors()) {
        if (tensor.role != Role::kWeight) continue;
        for (const AxisUnits& part : tensor.units) {
          if (part.axis != 0 || part.group != static_cast<int>(g)) continue;
          // Rows of the unit: all rows of one group here, in one or (LSTM) four blocks.
          const int64_t columns = tensor.size / tensor.shape[0];
          for (int64_t row = u; row < tensor.shape[0]; row += layout->groups()[g].size) {
            double row_sum = 0;
            for (int64_t c = 0; c < columns; ++c) {
              incoming.push_back(static_cast<size_t>(tensor.offset + row * columns + c));
              row_sum += static_cast<double>(scores.values()[incoming.back()]);
            }
            sum += row_sum;
          }
        }
      }
      for (const size_t i : incoming)
        expected.values()[i] = static_cast<float>(sum / static_cast<double>(incoming.size()));
    }
  }
  for (const double fraction : {0.3, 0.6, 0.9}) {
    const Mask mask = choose_mask(scores, {.fraction = fraction, .by_unit = true});
    EXPECT_EQ(mask, choose_mask(expected, {.fraction = fraction})) << fraction;
  }
}

TEST(ChooseMask, KeepsAShareOfEveryGroupsUnits) {
  const auto layout =
      layout_of({{.name = "fc1", .shape = {4, 2}, .units = {{.group = 0}}},
                 {.name = "fc2", .shape = {5, 4}, .units = {{.group = 1}, {.axis = 1, .group = 0}}},
                 {.name = "out", .shape = {1, 5}, .units = {{.axis = 1, .group = 1}}}},
                {{"fc1", 4}, {"fc2", 5}});
  // Means of fc1's units: 1, 4, 3, 4; fc2 and out have far higher scores.
  ParameterSet scores =
      set_of(layout, {0,  2,  4,  4,  3,  3,  2,  6,  10, 10, 10, 10, 11, 11, 11, 11, 12,
                      12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 9,  9,  9,  9,  9});
  const PruneRule none{.fraction = 8.0 / 33, .by_unit = true};
  EXPECT_EQ(choose_mask(scores, none).kept(0), 0u);
  PruneRule rule = none;
  rule.min_keep = 0.25;  // the first of the two best units
  EXPECT_EQ(choose_mask(scores, rule).words()[0] & 0xff, 0b00'00'11'00u);
  rule.min_keep = 0.3;  // of four units two
  EXPECT_EQ(choose_mask(scores, rule).words()[0] & 0xff, 0b11'00'11'00u);
  EXPECT_EQ(choose_mask(scores, rule).kept(1), 20u);
}

TEST(Criteria, GuidanceByHand) {
  const auto layout = layout_of({{.name = "a", .shape = {5}},
                                 {.name = "flat", .shape = {3}},
                                 {.name = "mean", .shape = {1}, .role = Role::kStatistic}});
  const ParameterSet deviation = set_of(layout, {1, 3, 2, 9, 5, 4, 4, 4, 8});
  Evidence evidence{.deviation = &deviation};
  const auto& row = find_criterion("deviation");
  EXPECT_EQ(list(row.score(evidence)), (std::vector<float>{0, .25f, .125f, 1, .5f, 0, 0, 0, 0}));
  // Sorted 1 2 3 5 9: the median is the 3rd, the quartiles the ⌈1.25⌉ = 2nd and ⌈3.75⌉ = 4th.
  evidence.robust = true;
  EXPECT_EQ(list(row.score(evidence)),
            (std::vector<float>{-2.0f / 3, 0, -1.0f / 3, 2, 2.0f / 3, 0, 0, 0, 0}));
}

TEST(Criteria, MagnitudeAndPruneFlByHand) {
  const auto layout = layout_of({{.name = "a", .shape = {2}}, {.name = "b", .shape = {2}}});
  const ParameterSet weights = set_of(layout, {-3, 1, -0.0f, 2});
  EXPECT_EQ(list(find_criterion("magnitude").score({.weights = &weights})),
            (std::vector<float>{3, 1, 0, 2}));
  const ParameterSet importance = set_of(layout, {1, 4, 1, 4});
  std::vector<double> seconds = {0.5, 2};
  const Evidence evidence{.importance = &importance, .value_seconds = &seconds};
  EXPECT_EQ(list(find_criterion("prunefl").score(evidence)), (std::vector<float>{2, 8, .5f, 2}));
  seconds[1] = 0;
  EXPECT_THROW(find_criterion("prunefl").score(evidence), Error);
}

TEST(Criteria, RandomIsUniformAndAFunctionOfTheKey) {
  const auto layout =
      layout_of({{.name = "a", .shape = {100, 100}}, {.name = "b", .shape = {500}}});
  const ParameterSet weights(layout);
  const auto& row = find_criterion("random");
  const ParameterSet one = row.score({.weights = &weights, .key = Key(1)});
  EXPECT_NE(list(one), list(row.score({.weights = &weights, .key = Key(2)})));
  // A tensor's numbers do not depend on the others'.
  const ParameterSet alone(layout_of({{.name = "a", .shape = {100, 100}}}));
  EXPECT_TRUE(
      std::ranges::equal(row.score({.weights = &alone, .key = Key(1)}).values(), one.values("a")));
  double sum = 0;
  for (const float score : one.values()) {
    EXPECT_GE(score, 0);
    EXPECT_LT(score, 1);
    sum += static_cast<double>(score);
  }
  EXPECT_NEAR(sum / 10500, 0.5, 0.015);
}

// What every row promises, whatever it is.
TEST(Criteria, EveryRowScoresEveryValue) {
  for (const auto& layout : {all_roles(), units_layout()}) {
    const ParameterSet weights = random_scores(layout, 0.1, Key(5));
    ParameterSet squares = weights;
    for (float& value : squares.values()) value *= value;
    const std::vector<double> seconds(layout->tensors().size(), 1e-9);
    for (const CriterionRow& row : criterion_rows()) {
      EXPECT_EQ(&find_criterion(row.name), &row);
      EXPECT_FALSE(row.summary.empty());
      for (const bool robust : {false, true}) {
        Evidence evidence{
            .weights = &weights, .value_seconds = &seconds, .robust = robust, .key = Key(6)};
        // No row looks at more than it says.
        if (row.evidence == EvidenceKind::kDeviation) evidence.deviation = &squares;
        if (row.evidence == EvidenceKind::kImportance) evidence.importance = &squares;
        const ParameterSet scores = row.score(evidence);
        EXPECT_EQ(scores.layout(), *layout) << row.name;
        EXPECT_TRUE(all_finite(scores.values())) << row.name;
        EXPECT_EQ(list(scores), list(row.score(evidence))) << row.name;
        // The scores tell values apart: about the fraction goes.
        const Mask mask = choose_mask(scores, {.fraction = 0.3});
        const auto trainable = static_cast<double>(layout->num_trainable());
        const double gone = static_cast<double>(scores.size() - mask.kept()) / trainable;
        EXPECT_NEAR(gone, 0.3, 0.06) << row.name;
      }
    }
  }
  EXPECT_THROW(find_criterion("magnitud"), Error);
}

TEST(ZeroRandom, ZeroesExactlyTheShareOfEveryTensor) {
  const auto layout = layout_of({{.name = "w", .shape = {101, 99}},
                                 {.name = "bias", .shape = {13}, .role = Role::kBias},
                                 {.name = "mean", .shape = {64}, .role = Role::kStatistic},
                                 {.name = "none", .shape = {0}},
                                 {.name = "w2", .shape = {64, 4}}});
  for (const double fraction : {0.0, 0.0005, 0.45, 0.5, 0.9, 0.9999, 1.0}) {
    for (const bool weights_only : {false, true}) {
      ParameterSet values(layout);
      std::fill(values.values().begin(), values.values().end(), -1.0f);
      ParameterSet again = values;
      zero_random(values.values(), *layout, fraction, weights_only, Key(7));
      for (const ParameterInfo& tensor : layout->tensors()) {
        const bool prunable = tensor.name != "mean" && !(weights_only && tensor.name == "bias");
        const auto expected =
            prunable ? std::llround(fraction * static_cast<double>(tensor.size)) : 0;
        int64_t zeros = 0;
        for (const float value : values.values(tensor)) zeros += value == 0 && !std::signbit(value);
        EXPECT_EQ(zeros, expected) << tensor.name << " " << fraction;
      }
      zero_random(again.values(), *layout, fraction, weights_only, Key(7));
      EXPECT_EQ(list(values), list(again));
    }
  }
}

TEST(ZeroRandom, EveryPairIsAsLikely) {
  // 2 of 5 values: all 10 pairs; χ² with 9 degrees of freedom stays below 27.9 in 999 of 1000.
  // 131 values, so that a word is cut too: every value as often.
  const auto five = layout_of({{.name = "w", .shape = {5}}});
  std::vector<double> pairs(32, 0);
  for (uint64_t i = 0; i < 20000; ++i) {
    ParameterSet values = set_of(five, {1, 1, 1, 1, 1});
    zero_random(values.values(), *five, 0.4, false, Key(8).child(i));
    size_t set = 0;
    for (size_t v = 0; v < 5; ++v) set |= static_cast<size_t>(values.values()[v] == 0) << v;
    pairs[set] += 1;
  }
  double chi = 0, seen = 0;
  for (const double count : pairs) {
    if (count == 0) continue;
    seen += 1;
    chi += (count - 2000) * (count - 2000) / 2000;
  }
  EXPECT_EQ(seen, 10);
  EXPECT_LT(chi, 27.9);
  for (const double fraction : {0.1, 0.45, 0.8}) {
    const auto layout = layout_of({{.name = "w", .shape = {131}}});
    std::vector<double> zeros(131, 0);
    for (uint64_t i = 0; i < 4000; ++i) {
      ParameterSet values(layout);
      std::fill(values.values().begin(), values.values().end(), 1.0f);
      zero_random(values.values(), *layout, fraction, false, Key(9).child(i));
      for (size_t v = 0; v < 131; ++v) zeros[v] += values.values()[v] == 0 ? 1 : 0;
    }
    const double p = std::round(131 * fraction) / 131, sd = std::sqrt(4000 * p * (1 - p));
    for (size_t v = 0; v < 131; ++v) EXPECT_NEAR(zeros[v], 4000 * p, 4.5 * sd) << v;
  }
}

TEST(Agreement, RankCorrelationByHand) {
  using Floats = std::vector<float>;
  EXPECT_DOUBLE_EQ(rank_correlation(Floats{1, 2, 3}, Floats{10, 20, 300}), 1);
  EXPECT_DOUBLE_EQ(rank_correlation(Floats{1, 2, 3}, Floats{3, 2, 1}), -1);
  EXPECT_DOUBLE_EQ(rank_correlation(Floats{1, 2, 3}, Floats{5, 5, 5}), 0);
  // Without ties 1 − 6 Σd²/(n(n² − 1)): d² = 1 + 1 + 1 + 1 of n = 5.
  EXPECT_DOUBLE_EQ(rank_correlation(Floats{1, 2, 3, 4, 5}, Floats{2, 1, 4, 3, 5}), 0.8);
  // Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: Σ = 4.5 of √(4.5·5).
  EXPECT_DOUBLE_EQ(rank_correlation(Floats{1, 2, 2, 3}, Floats{1, 2, 3, 4}), std::sqrt(0.9));
  EXPECT_THROW(rank_correlation(Floats{1, NAN}, Floats{1, 2}), Error);
}

TEST(Agreement, WeightsHaveMeanOneAndFollowAgreement) {
  using Samples = std::vector<std::vector<float>>;
  const std::vector<float> up = {1, 2, 3, 4, 5}, near = {2, 1, 4, 3, 5}, down = {5, 4, 3, 2, 1};
  EXPECT_EQ(agreement_weights(Samples{up}), (std::vector<double>{1}));
  EXPECT_EQ(agreement_weights(Samples{up, down}), (std::vector<double>{1, 1}));
  EXPECT_EQ(agreement_weights(Samples{up, up, up}), (std::vector<double>{1, 1, 1}));
  // Sums of correlations: up 0.8 + 1, near 0.8 + 0.8, up again 1 + 0.8; a fourth that disagrees
  // with all has 0, the others lose what it says.
  const auto three = agreement_weights(Samples{up, near, up});
  EXPECT_NEAR(three[0], 3 * 1.8 / 5.2, 1e-12);
  EXPECT_NEAR(three[1], 3 * 1.6 / 5.2, 1e-12);
  const auto four = agreement_weights(Samples{up, near, up, down});
  EXPECT_EQ(four[3], 0);
  EXPECT_NEAR(four[0], 4 * 0.8 / 2.4, 1e-12);
  EXPECT_NEAR(std::accumulate(four.begin(), four.end(), 0.0), 4, 1e-12);
}

TEST(Schedule, GradualSparsity) {
  EXPECT_EQ(gradual_sparsity(0.5, 3, 3, 2), 0);
  EXPECT_EQ(gradual_sparsity(0.5, 3, 3, 3), 0.5);
  EXPECT_EQ(gradual_sparsity(0.8, 1, 4, 4), 0.8);
  EXPECT_EQ(gradual_sparsity(0.8, 1, 4, 90), 0.8);
  EXPECT_DOUBLE_EQ(gradual_sparsity(0.8, 1, 4, 2), 0.8 * (1 - 0.125));
  EXPECT_DOUBLE_EQ(gradual_sparsity(0.8, 1, 4, 1), 0.8 * (1 - 0.75 * 0.75 * 0.75));
  EXPECT_EQ(gradual_sparsity(0.8, 5, 9, 4), 0);
}

}  // namespace
}  // namespace espalier::prune

// Contributions of sub-models to an exact sum.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <thread>

#include "espalier/base/error.h"
#include "espalier/params/exact_sum.h"
#include "espalier/params/test_units.h"

namespace espalier {
namespace {

// Null map: a contribution of the whole model. `dense` is x with zeros everywhere else.
struct Contribution {
  std::unique_ptr<CoordinateMap> map;
  std::vector<size_t> coordinates;
  std::vector<float> x, dense;
  double weight = 0;
};

std::vector<Contribution> contributions(const ParameterLayout& layout, size_t count,
                                        size_t every_nth_whole) {
  std::vector<Contribution> all(count);
  for (size_t k = 0; k < count; ++k) {
    Contribution& c = all[k];
    const bool whole = every_nth_whole > 0 && k % every_nth_whole == 0;
    const auto kept =
        random_units(layout, whole ? 1.0 : 0.2 + 0.06 * static_cast<double>(k), Key(100 + k));
    c.coordinates = kept_coordinates(layout, kept);
    if (!whole) {
      c.map = std::make_unique<CoordinateMap>(layout, *narrow_layout(layout, counts(kept)), kept);
    }
    Stream stream{Key(k)};
    c.dense.assign(static_cast<size_t>(layout.size()), 0.0f);
    for (const size_t i : c.coordinates) {
      c.x.push_back(static_cast<float>(stream.normal() * std::exp(stream.normal())));
      c.dense[i] = c.x.back();
    }
    c.weight = k == 2 ? 0 : 1 + 37 * static_cast<double>(k);
  }
  return all;
}

void add(ExactAccumulator& sum, const Contribution& c) {
  sum.add_checked(c.x, c.weight, sum.check(c.x, c.weight, c.map.get()), c.map.get());
}

std::vector<ExactAccumulator::Covering> covering(const std::vector<Contribution>& all) {
  std::vector<ExactAccumulator::Covering> list;
  for (const Contribution& c : all) list.push_back({c.map.get(), c.weight});
  return list;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// 2^-40 as the largest weight: no weight can overflow; 2^26: products beyond 2^50, rounded by
// llrint.
TEST(ExactAccumulatorMap, EqualsAddingTheDenseVector) {
  const auto layout = units_layout();
  const auto size = static_cast<size_t>(layout->size());
  for (const double scale : {0x1p-40, 1.0, 0x1p20}) {
    auto all = contributions(*layout, 10, 4);
    ExactAccumulator mapped(size, 10, 400 * scale), dense(size, 10, 400 * scale);
    for (Contribution& c : all) {
      c.weight *= scale;
      add(mapped, c);
      dense.add(c.dense, c.weight);
    }
    for (size_t i = 0; i < size; ++i) ASSERT_EQ(mapped.sum(i), dense.sum(i)) << i;
    EXPECT_EQ(mapped.total_weight(), dense.total_weight());
    EXPECT_EQ(mapped.contributions(), 10u);
  }
}

// Which coordinates are wide changes how finely they are added, and nothing else.
TEST(ExactAccumulatorMap, WideCoordinatesHaveTheSameSumsAndMeans) {
  const auto layout = units_layout();
  const auto size = static_cast<size_t>(layout->size());
  std::vector<ExactAccumulator::Range> wide;  // every second tensor
  for (size_t t = 1; t < layout->tensors().size(); t += 2) {
    const ParameterInfo& tensor = layout->tensors()[t];
    const auto begin = static_cast<size_t>(tensor.offset);
    if (tensor.size > 0) wide.push_back({begin, begin + static_cast<size_t>(tensor.size)});
  }
  ASSERT_FALSE(wide.empty());
  for (const size_t every_nth_whole : {size_t{0}, size_t{4}}) {
    const auto all = contributions(*layout, 10, every_nth_whole);
    ExactAccumulator narrow(size, 10, 400), mapped(size, 10, 400, wide), dense(size, 10, 400, wide);
    for (const Contribution& c : all) {
      add(narrow, c);
      add(mapped, c);
      dense.add(c.dense, c.weight);
    }
    std::vector<float> expected(size), mean(size), covered(size), covered_too(size);
    narrow.mean(narrow.total_weight(), expected);
    mapped.mean(mapped.total_weight(), mean);
    narrow.mean_covered(covering(all), covered);
    mapped.mean_covered(covering(all), covered_too);
    for (size_t i = 0; i < size; ++i) {
      ASSERT_EQ(mapped.sum(i), dense.sum(i)) << i;
      ASSERT_FLOAT_EQ(mean[i], expected[i]) << i;
      ASSERT_FLOAT_EQ(covered_too[i], covered[i]) << i;
      ASSERT_EQ(std::signbit(covered_too[i]), std::signbit(covered[i])) << i;
    }
  }
}

TEST(ExactAccumulatorMap, OrderAndThreadsDoNotMatter) {
  const auto layout = units_layout();
  const auto size = static_cast<size_t>(layout->size());
  const auto all = contributions(*layout, 12, 5);
  ExactAccumulator forward(size, 12, 1000), backward(size, 12, 1000), shared(size, 12, 1000);
  for (const Contribution& c : all) add(forward, c);
  for (size_t k = all.size(); k-- > 0;) add(backward, all[k]);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t k = t; k < all.size(); k += 4) add(shared, all[k]);
    });
  }
  for (auto& thread : threads) thread.join();
  const auto list = covering(all);
  const std::vector<ExactAccumulator::Covering> reversed(list.rbegin(), list.rend());
  std::vector<float> a(size), b(size), c(size);
  forward.mean_covered(list, a);
  backward.mean_covered(reversed, b);
  shared.mean_covered(list, c);
  EXPECT_TRUE(same_bits(a, b));
  EXPECT_TRUE(same_bits(a, c));
}

TEST(ExactAccumulatorMap, CoverageEqualsAPlainLoop) {
  const auto layout = units_layout();
  const auto size = static_cast<size_t>(layout->size());
  for (const size_t every_nth_whole : {size_t{0}, size_t{3}, size_t{1}}) {
    const auto all = contributions(*layout, 6, every_nth_whole);
    ExactAccumulator sum(size, 6, 1000);
    std::vector<double> weight(size, 0.0);  // sums of small integers: exact
    for (const Contribution& c : all) {
      add(sum, c);
      for (const size_t i : c.coordinates) weight[i] += c.weight;
    }
    std::vector<float> mean(size), everyone(size);
    sum.mean_covered(covering(all), mean);
    sum.mean(sum.total_weight(), everyone);
    size_t uncovered = 0, by_all = 0;
    for (size_t i = 0; i < size; ++i) {
      if (weight[i] == 0) {
        ++uncovered;
        ASSERT_EQ(std::bit_cast<uint32_t>(mean[i]), 0x80000000u) << i;
      } else {
        ASSERT_EQ(mean[i], static_cast<float>(sum.sum(i) / weight[i])) << i;
      }
      if (weight[i] != sum.total_weight()) continue;
      ++by_all;
      ASSERT_EQ(std::bit_cast<uint32_t>(mean[i]), std::bit_cast<uint32_t>(everyone[i])) << i;
    }
    EXPECT_EQ(uncovered > 0, every_nth_whole == 0);
    EXPECT_GT(by_all, 0u);
  }
}

TEST(ExactAccumulatorMap, UncoveredCoordinatesKeepTheirBits) {
  const auto layout = units_layout();
  const auto size = static_cast<size_t>(layout->size());
  const auto all = contributions(*layout, 2, 0);
  ExactAccumulator sum(size, 2, 1000);
  for (const Contribution& c : all) add(sum, c);
  std::vector<bool> covered(size, false);
  for (const Contribution& c : all) {
    for (const size_t i : c.coordinates) covered[i] = true;
  }
  constexpr float kValues[] = {-0.0f, 0.0f, 1.5f, -1e-40f};
  std::vector<float> x(size), count(size), zero(size);
  for (size_t i = 0; i < size; ++i) x[i] = kValues[i % 4];
  sum.mean_covered(covering(all), count);
  sum.mean(sum.total_weight(), zero);
  for (size_t i = 0; i < size; ++i) {
    if (covered[i]) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(x[i] + count[i]), std::bit_cast<uint32_t>(x[i])) << i;
    ASSERT_EQ(std::bit_cast<uint32_t>(x[i] + zero[i]), std::bit_cast<uint32_t>(x[i])) << i;
  }
}

TEST(ExactAccumulatorMap, RejectsWhatDoesNotFit) {
  const auto layout = units_layout();
  const auto size = static_cast<size_t>(layout->size());
  const auto all = contributions(*layout, 1, 0);
  const Contribution& c = all[0];
  const ExactAccumulator right(size, 1, 10), wrong(size + 1, 1, 10);
  EXPECT_NO_THROW(right.check(c.x, 1, c.map.get()));
  EXPECT_THROW(right.check(c.x, 1), Error);
  EXPECT_THROW(right.check(c.dense, 1, c.map.get()), Error);
  EXPECT_THROW(wrong.check(c.x, 1, c.map.get()), Error);
  EXPECT_THROW(right.check(c.x, 11, c.map.get()), Error);
}

}  // namespace
}  // namespace espalier

#include "espalier/params/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>

#include "espalier/base/error.h"
#include "espalier/base/random.h"

namespace espalier {
namespace {

std::vector<std::vector<float>> random_vectors(size_t count, size_t size) {
  std::vector<std::vector<float>> vectors(count, std::vector<float>(size));
  for (size_t k = 0; k < count; ++k) {
    Stream stream{Key(k)};
    for (float& value : vectors[k])
      value = static_cast<float>(stream.normal() * std::exp(stream.normal()));
  }
  return vectors;
}

TEST(ExactAccumulator, EqualsALongDoubleLoopAndDoesNotDependOnOrder) {
  const auto vectors = random_vectors(13, 40000);
  std::vector<size_t> order(vectors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<float> first;
  for (int repeat = 0; repeat < 4; ++repeat) {
    ExactAccumulator sum(40000, 13, 1000);
    for (size_t k : order) sum.add(vectors[k], 500 + static_cast<double>(k));
    std::vector<float> mean(40000);
    sum.mean(sum.total_weight(), mean);
    if (repeat == 0) {
      first = mean;
      EXPECT_EQ(sum.total_weight(), 13 * 500 + 78);
      for (size_t i = 0; i < mean.size(); ++i) {
        long double expected = 0;
        for (size_t k = 0; k < vectors.size(); ++k)
          expected += static_cast<long double>(vectors[k][i]) * (500 + static_cast<long double>(k));
        expected /= 13 * 500 + 78;
        ASSERT_NEAR(mean[i], static_cast<double>(expected),
                    1e-12 + 6e-8 * std::abs(static_cast<double>(expected)));
      }
    }
    EXPECT_EQ(mean, first);
    Stream stream{Key(static_cast<uint64_t>(repeat))};
    stream.shuffle(std::span(order));
  }
}

// The words of `from`, through bytes, in blocks of so many.
void add_part(const ExactAccumulator& from, size_t block, ExactAccumulator& to) {
  ASSERT_EQ(from.num_words(), to.num_words());
  for (size_t begin = 0; begin < from.num_words(); begin += block) {
    std::vector<int64_t> words(std::min(block, from.num_words() - begin));
    from.words(begin, words);
    Bytes bytes;
    ByteWriter(bytes).array(std::span<const int64_t>(words));
    std::vector<int64_t> read(words.size());
    ByteReader(bytes, "test").array(std::span(read));
    to.add_words(begin, read);
  }
}

TEST(ExactAccumulator, ThreadsAndPartsGiveTheSameBytes) {
  const auto vectors = random_vectors(12, 70001);
  ExactAccumulator one(70001, 12, 8);
  for (size_t k = 0; k < 12; ++k) one.add(vectors[k], 1 + static_cast<double>(k % 8));
  ExactAccumulator shared(70001, 12, 8), left(70001, 12, 8), right(70001, 12, 8);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t k = t; k < 12; k += 4) shared.add(vectors[k], 1 + static_cast<double>(k % 8));
    });
  }
  for (auto& thread : threads) thread.join();
  for (size_t k = 0; k < 12; ++k)
    (k % 3 == 0 ? left : right).add(vectors[k], 1 + static_cast<double>(k % 8));
  add_part(left, 4096, right);
  EXPECT_EQ(right.total_weight(), one.total_weight());
  EXPECT_EQ(right.contributions(), 12U);
  for (size_t i = 0; i < 70001; ++i) {
    ASSERT_EQ(one.sum(i), shared.sum(i));
    ASSERT_EQ(one.sum(i), right.sum(i));
  }
}

TEST(ExactAccumulator, RejectsWhatDoesNotFitAndAddsNothing) {
  ExactAccumulator sum(3, 4, 10);
  const std::vector<float> good = {1, 2, 3};
  const float inf = std::numeric_limits<float>::infinity();
  for (float bad : {inf, -inf, std::numeric_limits<float>::quiet_NaN(), 4097.0f}) {
    const std::vector<float> x = {1, bad, 3};
    EXPECT_THROW(sum.add(x, 1), Error);
  }
  EXPECT_THROW(sum.add(std::vector<float>(2), 1), Error);
  EXPECT_THROW(sum.add(good, 11), Error);
  EXPECT_THROW(sum.add(good, -1), Error);
  EXPECT_THROW(sum.add(good, std::nan("")), Error);
  EXPECT_EQ(sum.contributions(), 0u);
  for (int i = 0; i < 4; ++i) sum.add(good, 10);
  EXPECT_THROW(sum.add(good, 1), Error);
  EXPECT_EQ(sum.sum(2), 120);
}

TEST(ExactAccumulator, ExtremesDoNotOverflow) {
  ExactAccumulator sum(1, 1024, 1 << 20);
  const std::vector<float> x = {-4096.0f};
  for (int i = 0; i < 1024; ++i) sum.add(x, 1 << 20);
  EXPECT_EQ(sum.sum(0), -4096.0 * (1 << 20) * 1024.0);
  EXPECT_THROW(ExactAccumulator(1, 1 << 20, 1e6), Error);
}

TEST(ExactAccumulator, SmallAndLargeRoundingAgree) {
  // The fast rounding is used below 2^50, llrint above: both are round-to-nearest-even of the same
  // product.
  ExactAccumulator sum(1, 1, 1);
  ASSERT_EQ(sum.fraction_bits(), 50);
  sum.add(std::vector<float>{std::ldexp(3.0f, -51)}, 1);
  EXPECT_EQ(sum.sum(0), std::ldexp(2.0, -50));
}

// Statistics of raw columns and counters are far beyond what weights may be.
TEST(ExactSum, WideCoordinatesTakeStatisticsAndCountersAsTheyAre) {
  const std::vector<float> a = {1, 3e12f, -2e-9f, 16777216, 2}, b = {3, -5e17f, 7e-9f, 3, 4};
  ExactAccumulator forwards(5, 2, 600, {{1, 4}}), backwards(5, 2, 600, {{1, 4}});
  forwards.add(a, 37), forwards.add(b, 563);
  backwards.add(b, 563), backwards.add(a, 37);
  std::vector<float> x(5), y(5);
  forwards.mean(600, x);
  backwards.mean(600, y);
  EXPECT_EQ(x, y);
  for (size_t i = 0; i < 5; ++i) {
    const double exact = (37.0 * a[i] + 563.0 * b[i]) / 600;
    EXPECT_FLOAT_EQ(x[i], static_cast<float>(exact)) << i;
  }
  EXPECT_DOUBLE_EQ(forwards.sum(3), 37.0 * 16777216 + 563 * 3);
  // The bound of what is trained is still there, and wide values have one too.
  EXPECT_THROW(forwards.check(std::vector<float>{5000, 0, 0, 0, 0}, 1), Error);
  EXPECT_THROW(forwards.check(std::vector<float>{0, 2e18f, 0, 0, 0}, 1), Error);
  EXPECT_THROW(forwards.check(std::vector<float>{0, 0, 0, NAN, 0}, 1), Error);
  EXPECT_THROW(forwards.check(std::vector<float>{0, 0, 0, 0, NAN}, 1), Error);
  EXPECT_EQ(forwards.check(std::vector<float>{0.5f, 1e18f, 0, 0, -2}, 1), 2);

  ExactAccumulator merged(5, 4, 600, {{1, 4}});
  ExactAccumulator other(5, 4, 600, {{1, 4}});
  merged.add(a, 37);
  other.add(b, 563);
  add_part(other, 7, merged);
  merged.mean(600, y);
  EXPECT_EQ(x, y);
  EXPECT_EQ(merged.total_weight(), 600);
  // Parts that somebody else has added, as integers: limbs carry.
  ExactAccumulator all(5, 1 << 14, 600, {{1, 4}}), most(5, 1 << 14, 600, {{1, 4}});
  std::vector<int64_t> total(most.num_words(), 0), part(most.num_words());
  for (int k = 0; k < 100; ++k) {
    ExactAccumulator leaf(5, 1 << 14, 600, {{1, 4}});
    for (ExactAccumulator* one : {&leaf, &all}) one->add(k % 3 == 0 ? a : b, k % 3 == 0 ? 37 : 563);
    leaf.words(0, part);
    for (size_t i = 0; i < part.size(); ++i) total[i] += part[i];
  }
  most.add_words(0, total);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(most.sum(i), all.sum(i)) << i;
  EXPECT_EQ(most.total_weight(), all.total_weight());
  total.back() = 1 << 14;
  EXPECT_THROW(most.add_words(0, total), Error) << "more than announced";
  merged.reset();
  merged.add(std::vector<float>(5, 0.0f), 1);
  merged.mean(1, y);
  for (const float value : y) EXPECT_TRUE(value == 0 && std::signbit(value)) << "−0 for 0";
}
}  // namespace
}  // namespace espalier

#include "espalier/base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace espalier {
namespace {

// Known answers published with the reference implementation (Random123 kat_vectors, philox4x32-10).
TEST(Random, PhiloxKnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, 0),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffffffffffffULL),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822ULL),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, StreamsCanStartAnywhere) {
  Stream whole{Key(7)};
  std::vector<uint32_t> words;
  for (int i = 0; i < 40; ++i) words.push_back(whole.u32());
  for (uint64_t start = 0; start < 30; ++start) {
    Stream part(Key(7), start);
    for (uint64_t i = start; i < 40; ++i) ASSERT_EQ(part.u32(), words[i]) << start << " " << i;
  }
}

TEST(Random, ChildrenDiffer) {
  std::set<uint64_t> keys;
  for (uint64_t tag = 0; tag < 1000; ++tag) keys.insert(Key(1).child(tag).value());
  keys.insert(Key(1).child(Purpose::kShuffle).value());
  keys.insert(Key(2).child(0).value());
  EXPECT_EQ(keys.size(), 1002u);
}

TEST(Random, Moments) {
  Stream stream{Key(3)};
  const int n = 200000;
  double sum = 0, square = 0, gamma_sum = 0, small_gamma = 0, uniform = 0;
  for (int i = 0; i < n; ++i) {
    const double x = stream.normal();
    sum += x;
    square += x * x;
    gamma_sum += stream.gamma(2.5);
    small_gamma += stream.gamma(0.3);
    uniform += stream.uniform();
  }
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(square / n, 1, 5 * std::sqrt(2.0 / n));
  EXPECT_NEAR(gamma_sum / n, 2.5, 5 * std::sqrt(2.5 / n));
  EXPECT_NEAR(small_gamma / n, 0.3, 5 * std::sqrt(0.3 / n));
  EXPECT_NEAR(uniform / n, 0.5, 5 * std::sqrt(1.0 / 12 / n));
}

TEST(Random, DirichletSumsToOneEvenForTinyAlpha) {
  Stream stream{Key(4)};
  for (double alpha : {1e-9, 0.1, 1.0, 100.0}) {
    double total = 0;
    for (double share : stream.dirichlet(alpha, 10)) total += share;
    EXPECT_NEAR(total, 1, 1e-9) << alpha;
  }
}

TEST(Random, BelowIsUniform) {
  Stream stream{Key(5)};
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts[stream.below(7)];
  for (int count : counts) EXPECT_NEAR(count, 10000, 500);
}

TEST(Random, SampleWithoutReplacementIsDistinctUniformAndCheap) {
  std::vector<int> counts(20);
  for (uint64_t trial = 0; trial < 20000; ++trial) {
    const auto chosen = sample_without_replacement(Key(trial), 20, 5);
    ASSERT_EQ(std::set<uint64_t>(chosen.begin(), chosen.end()).size(), 5u);
    for (uint64_t index : chosen) ++counts[index];
  }
  for (int count : counts) EXPECT_NEAR(count, 5000, 350);
  EXPECT_EQ(sample_without_replacement(Key(1), uint64_t{1} << 50, 3).size(), 3u);
  EXPECT_EQ(sample_without_replacement(Key(1), 4, 4), (std::vector<uint64_t>{0, 1, 2, 3}));
}

}  // namespace
TEST(Permuted, IsABijectionThatTheKeyNames) {
  for (const uint64_t n : {1u, 2u, 5u, 64u, 100u, 1000u}) {
    std::vector<bool> seen(n, false);
    for (uint64_t value = 0; value < n; ++value) {
      const uint64_t place = permuted(Key(7), n, value);
      ASSERT_LT(place, n);
      EXPECT_FALSE(seen[place]) << n << " " << value;
      seen[place] = true;
    }
  }
  // Every value reaches every place about equally often over keys.
  std::vector<int> count(10, 0);
  for (uint64_t key = 0; key < 4000; ++key) ++count[permuted(Key(key), 10, 3)];
  for (const int c : count) EXPECT_NEAR(c, 400, 100);
}

}  // namespace espalier

#include "espalier/prune/mask.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "espalier/codec/test_targets.h"
#include "espalier/params/test_units.h"
#include "espalier/prune/bits.h"

namespace espalier::prune {
namespace {

std::shared_ptr<const ParameterLayout> layout_of(std::vector<ParameterInfo> tensors) {
  return std::make_shared<const ParameterLayout>(std::move(tensors));
}

// Odd sizes, an empty tensor, a scalar, a buffer that ends within a word.
std::shared_ptr<const ParameterLayout> odd_layout() {
  return layout_of({{.name = "a", .shape = {7, 31}},
                    {.name = "a.bias", .shape = {7}, .role = Role::kBias},
                    {.name = "none", .shape = {0, 3}},
                    {.name = "big", .shape = {65, 3, 11}},
                    {.name = "steps", .shape = {}, .role = Role::kCounter},
                    {.name = "last", .shape = {129}}});
}

Mask random_mask(const std::shared_ptr<const ParameterLayout>& layout, double keep, Key key) {
  Stream stream(key);
  std::vector<uint64_t> words(num_words(static_cast<size_t>(layout->size())), 0);
  for (size_t i = 0; i < static_cast<size_t>(layout->size()); ++i)
    words[i / 64] |= uint64_t{stream.uniform() < keep ? 1u : 0u} << (i % 64);
  return Mask(layout, words);
}

ParameterSet random_values(const std::shared_ptr<const ParameterLayout>& layout, Key key) {
  ParameterSet set(layout);
  Stream stream(key);
  for (float& value : set.values()) value = static_cast<float>(stream.normal());
  return set;
}

std::vector<uint32_t> bits_of(std::span<const float> values) {
  std::vector<uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

TEST(Bits, RangesEqualALoop) {
  std::vector<uint64_t> words(4);
  Stream stream(Key(1));
  for (uint64_t& word : words) word = stream.u64() & stream.u64() & stream.u64();
  const auto bit = [&](size_t i) { return (words[i / 64] >> (i % 64) & 1) != 0; };
  for (size_t begin = 0; begin <= 256; ++begin) {
    for (size_t end = begin; end <= 256; ++end) {
      uint64_t count = 0;
      for (size_t i = begin; i < end; ++i) count += bit(i) ? 1 : 0;
      ASSERT_EQ(count_bits(words, begin, end), count) << begin << " " << end;
      ASSERT_EQ(any_bits(words, begin, end), count > 0) << begin << " " << end;
      if (end - begin > 64) continue;
      uint64_t expected = 0;
      for (size_t i = begin; i < end; ++i) expected |= uint64_t{bit(i) ? 1u : 0u} << (i - begin);
      ASSERT_EQ(bits_at(words, begin, end - begin), expected) << begin << " " << end;
    }
  }
  std::vector<uint64_t> some(4, 0);
  set_bits(some, 60, 130);
  EXPECT_EQ(count_bits(some, 0, 256), 70u);
  EXPECT_EQ(count_bits(some, 60, 130), 70u);
  clear_bits(some, 64, 128);
  EXPECT_EQ(some, (std::vector<uint64_t>{uint64_t{15} << 60, 0, 3, 0}));
}

TEST(Mask, CountsAndCompactLayout) {
  const auto layout = layout_of({{.name = "w", .shape = {2, 3}},
                                 {.name = "whole", .shape = {2, 2}, .role = Role::kNorm},
                                 {.name = "gone", .shape = {3}, .role = Role::kBias},
                                 {.name = "empty", .shape = {0, 5}}});
  // Bits beyond the 13 values are ignored.
  const Mask mask(layout, {0b1100000'000'1111'101001});
  EXPECT_EQ(mask.kept(), 7u);
  EXPECT_EQ(mask.kept(0), 3u);
  EXPECT_EQ(mask.kept(1), 4u);
  EXPECT_EQ(mask.kept(2), 0u);
  EXPECT_EQ(mask.words()[0], 0b1111'101001u);
  EXPECT_FALSE(mask.whole());
  EXPECT_TRUE(mask.keeps(0));
  EXPECT_FALSE(mask.keeps(1));
  const ParameterLayout expected({{.name = "w", .shape = {3}},
                                  {.name = "whole", .shape = {2, 2}, .role = Role::kNorm},
                                  {.name = "gone", .shape = {0}, .role = Role::kBias},
                                  {.name = "empty", .shape = {0, 5}}});
  EXPECT_EQ(*mask.compact_layout(), expected);
  EXPECT_TRUE(Mask::all(layout).whole());
  EXPECT_EQ(*Mask::all(layout).compact_layout(), *layout);
}

TEST(Mask, ApplyCompactExpandEqualPlainLoopsOnEveryTarget) {
  for (const auto& layout : {odd_layout(), units_layout(), layout_of({}),
                             layout_of({{.name = "x", .shape = {64, 64}}})}) {
    for (const double keep : {0.0, 0.02, 0.3, 0.5, 0.97, 1.0}) {
      Mask mask = random_mask(layout, keep, Key(7));
      // Whole words of ones and of zeros too.
      if (layout->size() > 1000) {
        std::vector<uint64_t> words = mask.words();
        set_bits(words, 100, 400);
        clear_bits(words, 500, 800);
        mask = Mask(layout, words);
      }
      const ParameterSet full = random_values(layout, Key(8));
      ParameterSet applied = full;
      std::vector<float> kept;
      for (size_t i = 0; i < full.size(); ++i) {
        if (mask.keeps(i)) kept.push_back(full.values()[i]);
        if (!mask.keeps(i)) applied.values()[i] = 0.0f;
      }
      codec::for_every_target([&] {
        ParameterSet values = full;
        mask.apply(values.values());
        EXPECT_EQ(bits_of(values.values()), bits_of(applied.values()));
        const ParameterSet compact = mask.compact(full);
        EXPECT_EQ(bits_of(compact.values()), bits_of(kept));
        EXPECT_EQ(compact.layout(), *mask.compact_layout());
        EXPECT_EQ(bits_of(mask.expand(compact).values()), bits_of(applied.values()));
        // Into memory that held something else.
        ParameterSet again = random_values(layout, Key(9)), small = compact;
        mask.expand(compact, again);
        EXPECT_EQ(bits_of(again.values()), bits_of(applied.values()));
        mask.compact(full, small);
        EXPECT_EQ(bits_of(small.values()), bits_of(kept));
      });
    }
  }
}

TEST(Mask, ApplyWritesPositiveZeroAndNothingElse) {
  const auto layout = layout_of({{.name = "x", .shape = {70}}});
  ParameterSet values(layout);
  for (float& value : values.values()) value = -std::nanf("");
  const Mask mask = random_mask(layout, 0.5, Key(3));
  const ParameterSet before = values;
  mask.apply(values.values());
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(values.values()[i]),
              mask.keeps(i) ? std::bit_cast<uint32_t>(before.values()[i]) : 0u);
  }
}

TEST(Mask, SupportIsWhatIsNotZero) {
  const auto layout = odd_layout();
  ParameterSet values = random_values(layout, Key(4));
  Stream stream(Key(5));
  for (float& value : values.values()) {
    const double draw = stream.uniform();
    if (draw < 0.3) value = draw < 0.1 ? -0.0f : 0.0f;
    if (draw > 0.9) value = draw > 0.95 ? 1e-45f : -INFINITY;
  }
  codec::for_every_target([&] {
    const Mask mask = Mask::support(values);
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(mask.keeps(i), values.values()[i] != 0.0f) << i;
  });
}

TEST(Mask, RowSupportKeepsWholeRows) {
  const auto layout = odd_layout();
  ParameterSet values(layout);
  const auto set = [&](const char* name, size_t at) { values.values(name)[at] = 1.0f; };
  set("a", 31 * 2 + 30);
  set("a", 31 * 5);
  set("a.bias", 3);
  set("big", 33 * 64 + 32);
  set("steps", 0);
  const Mask mask = Mask::row_support(values);
  for (const ParameterInfo& tensor : layout->tensors()) {
    for (int64_t i = 0; i < tensor.size; ++i) {
      bool expected = false;
      if (tensor.name == "a") expected = i / 31 == 2 || i / 31 == 5;
      if (tensor.name == "a.bias") expected = i == 3;
      if (tensor.name == "big") expected = i / 33 == 64;
      if (tensor.name == "steps") expected = true;
      ASSERT_EQ(mask.keeps(static_cast<size_t>(tensor.offset + i)), expected) << tensor.name << i;
    }
  }
}

TEST(Mask, EitherAndBoth) {
  const auto layout = odd_layout();
  const Mask a = random_mask(layout, 0.5, Key(1)), b = random_mask(layout, 0.5, Key(2));
  const Mask either = Mask::either(a, b), both = Mask::both(a, b);
  for (size_t i = 0; i < static_cast<size_t>(layout->size()); ++i) {
    ASSERT_EQ(either.keeps(i), a.keeps(i) || b.keeps(i));
    ASSERT_EQ(both.keeps(i), a.keeps(i) && b.keeps(i));
  }
  EXPECT_EQ(Mask::either(a, Mask::all(layout)), Mask::all(layout));
  EXPECT_EQ(Mask::both(a, Mask::all(layout)), a);
  EXPECT_FALSE(a == b);
}

TEST(Mask, ExtractFollowsTheSubmodelsCoordinates) {
  const auto layout = units_layout();
  for (const double keep : {0.1, 0.5, 1.0}) {
    const auto units = random_units(*layout, keep, Key(11));
    const submodel::Submodel part(layout, units);
    const Mask mask = random_mask(layout, 0.4, Key(12));
    const Mask small = mask.extract(part);
    EXPECT_EQ(*small.layout(), *part.layout());
    const std::vector<size_t> coordinates = kept_coordinates(*layout, units);
    ASSERT_EQ(coordinates.size(), static_cast<size_t>(small.layout()->size()));
    for (size_t i = 0; i < coordinates.size(); ++i)
      ASSERT_EQ(small.keeps(i), mask.keeps(coordinates[i])) << i;
  }
}

}  // namespace
}  // namespace espalier::prune

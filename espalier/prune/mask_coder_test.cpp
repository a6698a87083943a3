#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

#include "espalier/base/error.h"
#include "espalier/params/test_units.h"
#include "espalier/prune/bits.h"
#include "espalier/prune/mask.h"

namespace espalier::prune {
namespace {

std::shared_ptr<const ParameterLayout> layout_of(std::vector<ParameterInfo> tensors) {
  return std::make_shared<const ParameterLayout>(std::move(tensors));
}

// keep(tensor, index of the value in it)
template <class Keep>
Mask mask_of(const std::shared_ptr<const ParameterLayout>& layout, Keep&& keep) {
  std::vector<uint64_t> words(num_words(static_cast<size_t>(layout->size())), 0);
  for (size_t t = 0; t < layout->tensors().size(); ++t) {
    const ParameterInfo& tensor = layout->tensors()[t];
    for (size_t i = 0; i < static_cast<size_t>(tensor.size); ++i) {
      const size_t at = static_cast<size_t>(tensor.offset) + i;
      words[at / 64] |= uint64_t{keep(t, i) ? 1u : 0u} << (at % 64);
    }
  }
  return Mask(layout, std::move(words));
}

Mask random_mask(const std::shared_ptr<const ParameterLayout>& layout, double keep, Key key) {
  Stream stream(key);
  return mask_of(layout, [&](size_t, size_t) { return stream.uniform() < keep; });
}

Bytes encoded(const Mask& mask) {
  Bytes out;
  encode_mask(mask, out);
  return out;
}

void expect_round_trip(const Mask& mask) {
  const Bytes bytes = encoded(mask);
  EXPECT_EQ(decode_mask(bytes, mask.layout(), "test"), mask);
}

double entropy(double p) { return -p * std::log2(p) - (1 - p) * std::log2(1 - p); }

TEST(MaskCoder, RoundTripsOverLayoutsAndShares) {
  const std::vector<std::shared_ptr<const ParameterLayout>> layouts = {
      units_layout(),
      layout_of({}),
      layout_of({{.name = "empty", .shape = {0, 3}}, {.name = "none", .shape = {0}}}),
      layout_of({{.name = "scalar", .shape = {}}}),
      layout_of({{.name = "one", .shape = {1}}, {.name = "b", .shape = {1, 1}}}),
      layout_of({{.name = "odd", .shape = {3, 67}},
                 {.name = "row", .shape = {1, 129}},
                 {.name = "column", .shape = {129, 1}},
                 {.name = "v", .shape = {63}}})};
  uint64_t seed = 0;
  for (const auto& layout : layouts) {
    for (const double keep : {0.0, 0.001, 0.1, 0.5, 0.9, 0.999, 1.0}) {
      for (int repeat = 0; repeat < 5; ++repeat)
        expect_round_trip(random_mask(layout, keep, Key(++seed)));
    }
  }
}

TEST(MaskCoder, EverySmallMaskIsItsOwnBytes) {
  // All 2^10 masks of a 2 × 3 matrix and a vector of 4: different bytes, each decoded exactly.
  const auto layout = layout_of({{.name = "m", .shape = {2, 3}}, {.name = "v", .shape = {4}}});
  std::set<std::string> all;
  for (uint64_t bits = 0; bits < 1024; ++bits) {
    const Mask mask(layout, {bits});
    const Bytes bytes = encoded(mask);
    all.emplace(bytes.begin(), bytes.end());
    ASSERT_EQ(decode_mask(bytes, layout, "test").words()[0], bits);
  }
  EXPECT_EQ(all.size(), 1024u);
}

TEST(MaskCoder, IndependentBitsCostTheirEntropy) {
  const auto layout = layout_of({{.name = "w", .shape = {1000, 1000}}});
  for (const double keep : {0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98}) {
    const Mask mask = random_mask(layout, keep, Key(1));
    const double share = static_cast<double>(mask.kept()) / 1e6;
    const auto bits = static_cast<double>(8 * encoded(mask).size());
    EXPECT_LE(bits, 1.01 * 1e6 * entropy(share) + 64) << keep;
    // No code beats it but by luck.
    EXPECT_GE(bits, 0.995 * 1e6 * entropy(share)) << keep;
  }
}

TEST(MaskCoder, SmallTensorsCostLittleMore) {
  const auto layout = layout_of({{.name = "conv1", .shape = {32, 1, 5, 5}}});
  double bits = 0, bound = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Mask mask = random_mask(layout, 0.7, Key(seed));
    bits += static_cast<double>(8 * encoded(mask).size());
    bound += 800 * entropy(static_cast<double>(mask.kept()) / 800);
  }
  EXPECT_LE(bits, 1.08 * bound);
}

TEST(MaskCoder, StructureCostsLess) {
  const auto layout = layout_of({{.name = "fc", .shape = {512, 1024}}});
  // Whole rows and columns are gone, as after the removal of units on both sides.
  Stream stream(Key(2));
  std::vector<bool> row(512), column(1024);
  for (size_t i = 0; i < 512; ++i) row[i] = stream.uniform() < 0.5;
  for (size_t i = 0; i < 1024; ++i) column[i] = stream.uniform() < 0.5;
  const Mask units =
      mask_of(layout, [&](size_t, size_t i) { return row[i / 1024] && column[i % 1024]; });
  EXPECT_LE(encoded(units).size(), 524288 / 8 / 20);
  expect_round_trip(units);
  // Shares that differ from row to row: near the mean of the rows' entropies, and below the
  // entropy of the mean.
  std::vector<double> share(512);
  double bound = 0;
  for (double& p : share) {
    p = stream.uniform() < 0.5 ? 0.05 : 0.95;
    bound += 1024 * entropy(p);
  }
  const Mask rows =
      mask_of(layout, [&](size_t, size_t i) { return stream.uniform() < share[i / 1024]; });
  EXPECT_LE(static_cast<double>(8 * encoded(rows).size()), 1.1 * bound);
  expect_round_trip(rows);
}

TEST(MaskCoder, WholeTensorsAndRowsAreCheap) {
  const auto layout = layout_of({{.name = "kept", .shape = {300, 300}},
                                 {.name = "gone", .shape = {300, 300}},
                                 {.name = "rows", .shape = {400, 50, 3}}});
  Stream stream(Key(3));
  std::vector<bool> row(400);
  for (size_t i = 0; i < 400; ++i) row[i] = stream.uniform() < 0.5;
  const Mask mask =
      mask_of(layout, [&](size_t t, size_t i) { return t == 0 || (t == 2 && row[i / 150]); });
  EXPECT_LE(encoded(mask).size(), 2u + 3u + 400 / 8 + 6);
  expect_round_trip(mask);
  expect_round_trip(Mask::all(layout));
  EXPECT_EQ(encoded(Mask::all(layout)).size(), 3u);
}

TEST(MaskCoder, DamageIsRefusedOrAnotherMask) {
  const auto layout = layout_of({{.name = "w", .shape = {9, 11}},
                                 {.name = "bias", .shape = {9}, .role = Role::kBias},
                                 {.name = "rows", .shape = {20, 5}},
                                 {.name = "v", .shape = {40}}});
  Stream stream(Key(4));
  const Mask mask = mask_of(layout, [&](size_t t, size_t i) {
    return t == 1 || (t == 2 ? i / 5 % 3 == 0 : stream.uniform() < 0.6);
  });
  const Bytes bytes = encoded(mask);
  size_t refused = 0, other = 0;
  const auto expect_not_this = [&](const Bytes& damaged) {
    try {
      const Mask result = decode_mask(damaged, layout, "test");
      EXPECT_FALSE(result == mask);
      // Whatever is accepted is the one spelling of what it says.
      EXPECT_EQ(encoded(result), damaged);
      ++other;
    } catch (const Error&) {
      ++refused;
    }
  };
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (unsigned value = 0; value < 256; ++value) {
      Bytes damaged = bytes;
      damaged[i] = static_cast<uint8_t>(value);
      if (damaged != bytes) expect_not_this(damaged);
    }
    expect_not_this(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(i)));
  }
  EXPECT_GT(refused, 9 * other);
  for (const uint8_t more : {uint8_t{0}, uint8_t{1}, uint8_t{255}}) {
    Bytes longer = bytes;
    longer.push_back(more);
    EXPECT_THROW(decode_mask(longer, layout, "test"), Error);
  }
  EXPECT_THROW(decode_mask({}, layout, "test"), Error);
}

TEST(MaskCoder, RandomBytesAreRefusedOrExact) {
  const auto layout = layout_of({{.name = "w", .shape = {3, 5}}, {.name = "v", .shape = {6}}});
  Stream stream(Key(5));
  size_t accepted = 0;
  for (int i = 0; i < 200000; ++i) {
    Bytes bytes(stream.below(9));
    for (uint8_t& byte : bytes)
      byte = static_cast<uint8_t>(stream.uniform() < 0.5 ? stream.below(6) : stream.below(256));
    try {
      const Mask mask = decode_mask(bytes, layout, "test");
      ASSERT_EQ(encoded(mask), bytes);
      ++accepted;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(accepted, 100u);
}

// docs/format.md shows these bytes.
TEST(MaskCoder, TheExampleOfTheFormat) {
  const auto layout = layout_of({{.name = "w", .shape = {4, 4}},
                                 {.name = "b", .shape = {4}, .role = Role::kBias},
                                 {.name = "fc", .shape = {3, 2}}});
  const Mask mask(layout, {0b11'00'11'1111'1011'0110'1011'1101});
  const Bytes bytes = {0x03, 0x0b, 0x01, 0x02, 0x02, 0x82, 0x4a, 0x07};
  EXPECT_EQ(encoded(mask), bytes);
  EXPECT_EQ(decode_mask(bytes, layout, "test"), mask);
}

TEST(MaskCoder, RefusesWhatTheHeadMustNotSay) {
  const auto layout = layout_of({{.name = "v", .shape = {6}}});
  EXPECT_THROW(decode_mask(Bytes{4}, layout, "test"), Error);           // no such kind
  EXPECT_THROW(decode_mask(Bytes{2, 1}, layout, "test"), Error);        // rows of a vector
  EXPECT_THROW(decode_mask(Bytes{3, 0}, layout, "test"), Error);        // elements, none kept
  EXPECT_THROW(decode_mask(Bytes{3, 6}, layout, "test"), Error);        // elements, all kept
  EXPECT_THROW(decode_mask(Bytes{3, 0x81, 0}, layout, "test"), Error);  // a long 1
  EXPECT_THROW(decode_mask(Bytes{1, 0}, layout, "test"), Error);        // something behind it
  EXPECT_EQ(decode_mask(Bytes{1}, layout, "test"), Mask::all(layout));
}

}  // namespace
}  // namespace espalier::prune

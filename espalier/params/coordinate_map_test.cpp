#include "espalier/params/coordinate_map.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <limits>

#include "espalier/base/error.h"
#include "espalier/params/test_units.h"

namespace espalier {
namespace {

using Kept = std::vector<std::vector<uint32_t>>;

CoordinateMap make_map(const ParameterLayout& layout, const Kept& kept) {
  return {layout, *narrow_layout(layout, counts(kept)), kept};
}

// Every value has its own bits; among them NaNs, infinities and −0.
std::vector<float> distinct(size_t size) {
  std::vector<float> x(size);
  for (size_t i = 0; i < size; ++i)
    x[i] = std::bit_cast<float>(static_cast<uint32_t>(i * 2654435761u) ^ 0x80000000u);
  return x;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

TEST(CoordinateMap, GatherAndScatterEqualALoopOverIndices) {
  const auto layout = units_layout();
  const std::vector<float> full = distinct(static_cast<size_t>(layout->size()));
  for (uint64_t seed = 0; seed < 24; ++seed) {
    const Kept kept = random_units(*layout, 0.1 + 0.05 * static_cast<double>(seed), Key(seed));
    const CoordinateMap map = make_map(*layout, kept);
    const std::vector<size_t> coordinates = kept_coordinates(*layout, kept);
    ASSERT_EQ(map.full_size(), full.size());
    ASSERT_EQ(map.small_size(), coordinates.size());
    std::vector<float> small(map.small_size()), expected;
    map.gather(full, small);
    for (const size_t i : coordinates) expected.push_back(full[i]);
    ASSERT_TRUE(same_bits(small, expected)) << "seed " << seed;

    std::vector<float> out = full, wanted = full;
    for (size_t i = 0; i < small.size(); ++i) {
      small[i] = -static_cast<float>(i);
      wanted[coordinates[i]] = small[i];
    }
    map.scatter(small, out);
    ASSERT_TRUE(same_bits(out, wanted)) << "seed " << seed;
  }
}

TEST(CoordinateMap, BlocksNameTheSameCoordinates) {
  const auto layout = units_layout();
  const Kept kept = random_units(*layout, 0.6, Key(3));
  const CoordinateMap map = make_map(*layout, kept);
  std::vector<size_t> coordinates;
  bool has_runs = false;
  for (const CoordinateMap::Block& block : map.blocks()) {
    EXPECT_EQ(block.small_offset, coordinates.size());
    for (const uint32_t row : block.rows) {
      for (const uint32_t column : block.columns)
        coordinates.push_back(block.full_offset + row * block.full_columns + column);
    }
    if (block.runs.empty()) continue;
    has_runs = true;
    std::vector<uint32_t> columns;
    for (const auto& run : block.runs) {
      EXPECT_EQ(run.small, columns.size());
      for (uint32_t i = 0; i < run.count; ++i) columns.push_back(run.full + i);
    }
    EXPECT_EQ(columns, block.columns);
  }
  EXPECT_TRUE(has_runs);
  EXPECT_EQ(coordinates, kept_coordinates(*layout, kept));
}

TEST(CoordinateMap, KeepingAllIsACopy) {
  const auto layout = units_layout();
  const Kept kept = random_units(*layout, 1.0, Key(1));
  const CoordinateMap map = make_map(*layout, kept);
  const std::vector<float> full = distinct(map.full_size());
  std::vector<float> small(map.small_size());
  map.gather(full, small);
  EXPECT_TRUE(same_bits(full, small));
  for (const auto& block : map.blocks()) EXPECT_TRUE(block.whole());
}

TEST(CoordinateMap, RejectsUnitsThatDoNotExistRepeatOrDecrease) {
  const auto layout = units_layout();
  const auto small = narrow_layout(*layout, std::vector<int64_t>{2, 1, 1, 1});
  EXPECT_NO_THROW(CoordinateMap(*layout, *small, {{1, 5}, {0}, {39}, {6}}));
  for (const Kept& bad :
       {Kept{{1, 6}, {0}, {0}, {0}}, Kept{{1, 1}, {0}, {0}, {0}}, Kept{{5, 1}, {0}, {0}, {0}},
        Kept{{}, {0}, {0}, {0}}, Kept{{0, 1}, {0}, {0}}, Kept{{0, 1}, {0}, {0}, {0}, {0}}}) {
    EXPECT_THROW(CoordinateMap(*layout, *small, bad), Error);
  }
}

TEST(CoordinateMap, RejectsATensorOfTooManyRows) {
  const int64_t rows = int64_t{1} << 33;
  const ParameterLayout layout({{.name = "huge", .shape = {rows, 2}}});
  try {
    const CoordinateMap map(layout, layout, {});
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("'huge'"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace espalier

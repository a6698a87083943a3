#include "espalier/run/memory_parts.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

namespace espalier::run {
namespace {

std::map<std::string_view, uint64_t> by_name(const MemoryParts& parts) {
  return {parts.begin(), parts.end()};
}
uint64_t sum(const MemoryParts& parts) {
  return std::accumulate(parts.begin(), parts.end(), uint64_t{0},
                         [](uint64_t so_far, const auto& part) { return so_far + part.second; });
}

MemoryCounts some_counts() {
  MemoryCounts counts;
  counts.peak = 200'000'000;
  counts.data = 50'000'100;
  counts.data_in_heap = 200'100;
  counts.blocks.bytes[static_cast<size_t>(MemoryUse::kData)] = 49'807'360;  // in whole blocks
  counts.blocks.bytes[static_cast<size_t>(MemoryUse::kWeights)] = 30'000'000;
  counts.blocks.bytes[static_cast<size_t>(MemoryUse::kUpdates)] = 20'000'000;
  counts.blocks.recycled = 10'000'000;
  counts.resident = {.heap = 40'000'000, .files = 25'000'000, .shared = 0};
  return counts;
}

TEST(MemoryParts, AddUpToThePeak) {
  const MemoryParts parts = memory_parts(some_counts());
  EXPECT_EQ(sum(parts), 200'000'000U);
  auto part = by_name(parts);
  EXPECT_EQ(part["data"], 50'000'100U) << "the samples, not the blocks that they lie in";
  EXPECT_EQ(part["weights"], 30'000'000U);
  EXPECT_EQ(part["updates"], 20'000'000U);
  EXPECT_EQ(part["recycled"], 10'000'000U);
  EXPECT_EQ(part["heap"], 40'000'000U - 200'100U) << "labels are data";
  EXPECT_EQ(part["code"], 25'000'000U);
  EXPECT_EQ(part["other"], 25'200'000U);
  // A heap that was largest at another time counts for no more than there is room for.
  MemoryCounts other = some_counts();
  other.resident.heap = 400'000'000;
  EXPECT_EQ(sum(memory_parts(other)), 200'000'000U);
}

TEST(MemoryParts, AreNeverNegative) {
  MemoryCounts counts = some_counts();
  counts.peak = 60'000'000;  // less than the parts: some were never written to
  counts.resident.heap = 100'000;
  auto part = by_name(memory_parts(counts));
  EXPECT_EQ(part["other"], 0U);
  EXPECT_EQ(part["heap"], 0U);
}

TEST(MemoryParts, CountASetExactly) {
  auto train = std::make_shared<data::Dataset>(), test = std::make_shared<data::Dataset>();
  train->pixels.resize(500 * 3072);
  train->labels.resize(500);
  test->pixels.resize(7 * 3072);
  test->labels.resize(7);
  test->client_of_sample.resize(7);
  const MemoryCounts counts = count_memory({train, test});
  EXPECT_EQ(counts.data, 507U * (3072 + 4) + 7 * 4);
  EXPECT_EQ(counts.data_in_heap, 507U * 4 + 7 * 4 + 7 * 3072) << "what is no large buffer";
  const MemoryParts parts = memory_parts(counts);
  EXPECT_EQ(by_name(parts)["data"], counts.data);
  EXPECT_GE(sum(parts), counts.peak);
}

}  // namespace
}  // namespace espalier::run

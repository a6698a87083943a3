#include "espalier/base/memory_use.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "espalier/base/clock.h"
#include "espalier/base/heap.h"
#include "espalier/base/large_blocks.h"
#include "espalier/base/test_blocks.h"

namespace espalier {
namespace {

uint64_t of(const BlockUse& use, MemoryUse which) { return use.bytes[static_cast<size_t>(which)]; }

TEST(MemoryUse, ScopesNestAndBelongToTheirThread) {
  EXPECT_EQ(MemoryScope::current(), MemoryUse::kUpdates);
  const MemoryScope outer(MemoryUse::kServer);
  {
    const MemoryScope inner(MemoryUse::kWeights);
    EXPECT_EQ(MemoryScope::current(), MemoryUse::kWeights);
    std::thread([] { EXPECT_EQ(MemoryScope::current(), MemoryUse::kUpdates); }).join();
  }
  EXPECT_EQ(MemoryScope::current(), MemoryUse::kServer);
}

TEST(MemoryUse, LargeBlocksCountForTheirUseWhenTheyAreMost) {
  if (!kBlocksAreKept) GTEST_SKIP() << "sanitizers see every allocation";
  constexpr size_t kBytes = 32 << 20;
  const auto take = [](MemoryUse use, size_t bytes) {
    const MemoryScope scope(use);
    return take_block(bytes);
  };
  // More than ever before in this process.
  free_kept_blocks();
  const size_t filling = peak_block_use().total() + kBytes;
  void* const filler = take(MemoryUse::kUpdates, filling);
  const BlockUse before = peak_block_use();
  void* const data = take(MemoryUse::kData, kBytes);
  void* const sums = take(MemoryUse::kWeights, 2 * kBytes);
  const BlockUse both = peak_block_use();
  EXPECT_EQ(of(both, MemoryUse::kData) - of(before, MemoryUse::kData), kBytes);
  EXPECT_EQ(of(both, MemoryUse::kWeights) - of(before, MemoryUse::kWeights), 2 * kBytes);

  give_block(sums, 2 * kBytes);
  EXPECT_EQ(take(MemoryUse::kServer, 2 * kBytes), sums);
  EXPECT_EQ(peak_block_use().bytes, both.bytes) << "taken again it is no more than before";
  void* const more = take(MemoryUse::kActivations, kBytes);
  const BlockUse peak = peak_block_use();
  EXPECT_EQ(of(peak, MemoryUse::kServer) - of(both, MemoryUse::kServer), 2 * kBytes);
  EXPECT_EQ(of(peak, MemoryUse::kWeights), of(before, MemoryUse::kWeights));
  EXPECT_EQ(peak.total(), both.total() + kBytes);

  // What is kept is part of a peak too.
  give_block(data, kBytes);
  void* const other = take(MemoryUse::kScratch, 3 * kBytes);
  EXPECT_EQ(peak_block_use().recycled, kBytes);
  EXPECT_EQ(peak_block_use().total(), peak.total() + 3 * kBytes);
  give_block(more, kBytes);
  give_block(sums, 2 * kBytes);
  give_block(other, 3 * kBytes);
  give_block(filler, filling);
  free_kept_blocks();
}

uint64_t resident() {
  const ResidentBytes now = resident_bytes();
  return now.heap + now.files;
}

TEST(MemoryUse, TheSystemTellsHeapAndFilesApart) {
  configure_heap();
  give_memory_back();  // what tests before have freed would be used first
  const ResidentBytes before = resident_bytes();
  EXPECT_GT(before.files, 1U << 20) << "this program and the C library";
  constexpr size_t kBytes = 24 << 20;
  auto block = std::make_unique<char[]>(kBytes);
  std::memset(block.get(), 1, kBytes);
  if (kBlocksAreKept) {
    EXPECT_NEAR(static_cast<double>(resident_bytes().heap - before.heap), double{kBytes}, 3e6);
  }
  // The system counts the peak by the way, some pages late.
  EXPECT_LE(resident(), peak_rss_bytes() + (1U << 20));
}

TEST(MemoryUse, WhatIsFreeGoesBack) {
  if (!kBlocksAreKept) GTEST_SKIP() << "sanitizers keep what is freed";
  configure_heap();
  constexpr size_t kBytes = 24 << 20;
  auto small = std::make_unique<char[]>(kBytes), above = std::make_unique<char[]>(1000);
  std::memset(small.get(), 1, kBytes);
  const uint64_t heap = resident_bytes().heap;
  small.reset();
  void* const block = take_block(kBytes);
  give_block(block, kBytes);
  give_memory_back();
  EXPECT_LT(resident_bytes().heap, heap - kBytes / 2);
  EXPECT_GE(peak_resident_bytes().heap, heap);
  // A kept block of this size would be taken in its place.
  void* const fresh = take_block(kBytes);
  EXPECT_EQ(static_cast<const char*>(fresh)[kBytes / 2], 0);
  give_block(fresh, kBytes);
}

}  // namespace
}  // namespace espalier

#include "espalier/base/large_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <thread>
#include <vector>

#include "espalier/base/memory_use.h"
#include "espalier/base/test_blocks.h"

namespace espalier {
namespace {

TEST(LargeBlocks, WhatIsGivenBackIsTakenAgain) {
  if (!kBlocksAreKept) GTEST_SKIP() << "sanitizers see every allocation";
  constexpr size_t kBytes = 5 << 20;
  const size_t before = taken_block_bytes();
  void* const first = take_block(kBytes);
  void* const second = take_block(kBytes);
  EXPECT_NE(first, second);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
  give_block(first, kBytes);
  void* const larger = take_block(2 * kBytes);
  EXPECT_NE(larger, first);
  EXPECT_EQ(take_block(kBytes - 100), first);  // of the same 64 KiB
  give_block(first, kBytes - 100);
  give_block(second, kBytes);
  EXPECT_EQ(taken_block_bytes(), before + 2 * kBytes);
  give_block(larger, 2 * kBytes);
  EXPECT_EQ(taken_block_bytes(), before);
}

TEST(LargeBlocks, LargerOnesBeginWithALargePage) {
  if (!kBlocksAreKept) GTEST_SKIP() << "sanitizers see every allocation";
  constexpr size_t kBytes = (7 << 20) + 100, kPage = 2 << 20;
  void* const block = take_block(kBytes);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % kPage, 0u);
  std::fill_n(static_cast<uint8_t*>(block), kBytes, uint8_t{1});  // all of it is there
  give_block(block, kBytes);
  free_kept_blocks();
}

TEST(LargeBlocks, AVectorsElementsAreZeroWhateverTheBlockHeld) {
  using Vector = std::vector<float, BlockAllocator<float, 64>>;
  constexpr size_t kSize = 1 << 20;
  { const Vector used(kSize, 3.5f); }
  const Vector next(kSize);
  EXPECT_TRUE(std::ranges::all_of(next, [](float x) { return x == 0; }));
  std::vector<int, BlockAllocator<int>> integers(kSize, 1);
  integers.resize(2 * kSize);
  EXPECT_EQ(std::ranges::count(integers, 0), static_cast<std::ptrdiff_t>(kSize));
}

TEST(LargeBlocks, AnUnsetVectorLeavesThemAsTheyAre) {
  if (!kBlocksAreKept) GTEST_SKIP() << "sanitizers see every allocation";
  using Vector = std::vector<float, UnsetAllocator<float, 64>>;
  constexpr size_t kSize = 3 << 18;
  { const Vector used(kSize, 3.5f); }
  const Vector next(kSize);
  EXPECT_EQ(next[kSize / 2], 3.5f);
  EXPECT_EQ(Vector(4, 0.0f), Vector({0, 0, 0, 0}));
}

TEST(LargeBlocks, OnlySoManyStay) {
  if (!kBlocksAreKept) GTEST_SKIP() << "sanitizers see every allocation";
  constexpr size_t kBytes = 8 << 20, kCount = 20;
  std::vector<void*> blocks;
  for (size_t i = 0; i < kCount; ++i) blocks.push_back(take_block(kBytes));
  for (void* block : blocks) give_block(block, kBytes);
  // The last 64 MiB come back, the latest first.
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(take_block(kBytes), blocks[kCount - 1 - i]) << i;
  for (size_t i = 0; i < 8; ++i) give_block(blocks[kCount - 1 - i], kBytes);
}

TEST(LargeBlocks, ThreadsGetBlocksOfTheirOwn) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 200; ++i) {
        std::vector<int, BlockAllocator<int>> values(1 << 17, t);
        ASSERT_TRUE(std::ranges::all_of(values, [&](int value) { return value == t; }));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace espalier

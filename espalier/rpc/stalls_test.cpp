#include "espalier/rpc/stalls.h"

#include <gtest/gtest.h>

#include <atomic>

namespace espalier::rpc {
namespace {

void rest(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

TEST(Stalls, EndsWhatDoesNotMoveAndNothingElse) {
  Stalls stalls(0.3);
  std::atomic<int> moving = 0, standing = 0, gone = 0;
  const uint64_t a = stalls.watch([&] { ++moving; });
  stalls.watch([&] { ++standing; });
  const uint64_t c = stalls.watch([&] { ++gone; });
  stalls.forget(c);
  for (int i = 0; i < 20; ++i) {
    rest(40);
    stalls.moved(a);
  }
  EXPECT_EQ(standing, 1);
  EXPECT_EQ(moving, 0);
  EXPECT_EQ(gone, 0);
  stalls.forget(a);
}

TEST(Stalls, WhatIsEndedMayForgetItself) {
  Stalls stalls(0.05);
  std::atomic<uint64_t> number = 0;
  std::atomic<bool> ended = false;
  number = stalls.watch([&] {
    stalls.forget(number);
    ended = true;
  });
  for (int i = 0; i < 100 && !ended; ++i) rest(20);
  EXPECT_TRUE(ended);
}

TEST(Stalls, WithoutALimitNothingEnds) {
  Stalls stalls(0);
  std::atomic<int> ended = 0;
  const uint64_t stream = stalls.watch([&] { ++ended; });
  rest(50);
  stalls.moved(stream);
  stalls.forget(stream);
  EXPECT_EQ(ended, 0);
}

}  // namespace
}  // namespace espalier::rpc

#include "espalier/rpc/call_limits.h"

#include <gtest/gtest.h>

namespace espalier::rpc {
namespace {

using namespace std::chrono_literals;

TEST(CallLimits, LetsABurstThroughAndThenTheRate) {
  CallLimits limits(2, 5);
  const auto start = CallLimits::Clock::now();
  int allowed = 0;
  for (int i = 0; i < 20; ++i) allowed += limits.allow(7, start);
  EXPECT_EQ(allowed, 5);
  EXPECT_TRUE(limits.allow(8, start)) << "somebody else's calls are his own";
  EXPECT_FALSE(limits.allow(7, start + 400ms));
  EXPECT_TRUE(limits.allow(7, start + 600ms));
  // Long after, the bucket is full and no fuller.
  allowed = 0;
  for (int i = 0; i < 20; ++i) allowed += limits.allow(7, start + 1h);
  EXPECT_EQ(allowed, 5);
}

TEST(CallLimits, NoneIsNone) {
  CallLimits limits(0, 1);
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(limits.allow(1));
}

}  // namespace
}  // namespace espalier::rpc

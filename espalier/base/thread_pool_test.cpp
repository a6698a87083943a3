#include "espalier/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>

#include "espalier/base/error.h"

namespace espalier {
namespace {

TEST(ThreadPool, RunsEachIndexOnceAndAgain) {
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::vector<std::atomic<int>> hits(101);
    pool.run(hits.size(), [&](size_t index, size_t worker) {
      ASSERT_LT(worker, 3u);
      ++hits[index];
    });
    for (auto& hit : hits) ASSERT_EQ(hit, 1);
  }
  pool.run(0, [](size_t, size_t) { FAIL(); });
}

TEST(ThreadPool, ExceptionsReachTheCallerAndThePoolGoesOn) {
  ThreadPool pool(2);
  EXPECT_THROW(pool.run(10,
                        [](size_t index, size_t) {
                          if (index == 3) fail("test", "no");
                        }),
               Error);
  std::atomic<int> count = 0;
  pool.run(10, [&](size_t, size_t) { ++count; });
  EXPECT_EQ(count, 10);
}

TEST(ThreadPool, AFailedStartFailsTheWork) {
  ThreadPool pool(1, [](size_t) { fail("test", "cannot start"); });
  EXPECT_THROW(pool.run(1, [](size_t, size_t) {}), Error);
}

}  // namespace
}  // namespace espalier

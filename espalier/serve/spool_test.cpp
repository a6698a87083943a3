#include "espalier/serve/spool.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "espalier/base/file.h"

namespace espalier::serve {
namespace {

namespace fs = std::filesystem;

class Spools : public testing::Test {
 protected:
  ~Spools() override { fs::remove_all(folder_); }
  static void arrive(Spool& spool, const Spool::Id& id, size_t size) {
    write_file_atomic(spool.arriving(id), Bytes(size, uint8_t{7}));
  }
  const fs::path folder_ = fs::temp_directory_path() / ("spool-" + std::to_string(::getpid()));
};

TEST_F(Spools, KeepWhatWasCountedOverAProcess) {
  {
    Spool spool(folder_, 1000);
    arrive(spool, {3, 0, 5}, 10);
    spool.keep({3, 0, 5}, 0xabc, ~uint64_t{0});
    arrive(spool, {3, 1, 5}, 20);  // never whole
  }
  write_file_atomic(folder_ / "kept" / "notes.txt", Bytes{1});  // somebody's
  Spool again(folder_, 1000);
  const auto kept = again.kept({3, 0, 5});
  ASSERT_TRUE(kept.has_value());
  EXPECT_EQ(kept->task_digest, 0xabcU);
  EXPECT_EQ(kept->digest, ~uint64_t{0});
  EXPECT_EQ(read_file(kept->file).size(), 10U);
  EXPECT_EQ(again.kept_bytes(), 10U);
  EXPECT_FALSE(again.kept({3, 1, 5}).has_value());
  EXPECT_FALSE(fs::exists(again.arriving({3, 1, 5})));
  EXPECT_TRUE(fs::exists(folder_ / "kept" / "notes.txt"));
}

TEST_F(Spools, ForgetCheckpointedRoundsAndTheOldestBeyondTheLimit) {
  Spool spool(folder_, 35);
  for (uint32_t round = 1; round <= 4; ++round) {
    arrive(spool, {round, 0, 1}, 10);
    spool.keep({round, 0, 1}, 1, 2);
  }
  EXPECT_EQ(spool.kept_bytes(), 30U);
  EXPECT_FALSE(spool.kept({1, 0, 1}).has_value());
  spool.forget_through(3);
  EXPECT_FALSE(spool.kept({3, 0, 1}).has_value());
  EXPECT_TRUE(spool.kept({4, 0, 1}).has_value());
  // The same again, after a round that is repeated.
  arrive(spool, {4, 0, 1}, 12);
  spool.keep({4, 0, 1}, 1, 9);
  EXPECT_EQ(spool.kept_bytes(), 12U);
  spool.drop({4, 0, 1});
  EXPECT_EQ(spool.kept_bytes(), 0U);
  EXPECT_TRUE(fs::is_empty(folder_ / "kept"));
}

TEST_F(Spools, WhoIsAskedAnewHasSentNothingForLaterRounds) {
  Spool spool(folder_, 1000);
  for (uint32_t round = 1; round <= 3; ++round) {
    for (const uint64_t client : {1, 2}) {
      arrive(spool, {round, 1, client}, 10);
      spool.keep({round, 1, client}, 1, 2);
    }
  }
  spool.forget_after(1, 2);
  EXPECT_TRUE(spool.kept({1, 1, 2}).has_value());
  EXPECT_FALSE(spool.kept({2, 1, 2}).has_value());
  EXPECT_FALSE(spool.kept({3, 1, 2}).has_value());
  EXPECT_TRUE(spool.kept({3, 1, 1}).has_value());
  EXPECT_EQ(spool.kept_bytes(), 40U);
}

TEST_F(Spools, LoseNoMoreThanTheSaving) {
  Spool spool(folder_, 1000);
  spool.keep({1, 0, 1}, 1, 2);  // nothing has arrived
  EXPECT_FALSE(spool.kept({1, 0, 1}).has_value());
  EXPECT_EQ(spool.kept_bytes(), 0U);
}

}  // namespace
}  // namespace espalier::serve

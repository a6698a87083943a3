#include "espalier/client/state_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "espalier/base/error.h"

namespace espalier::client {
namespace {

namespace fs = std::filesystem;

ClientState state(float value, size_t size = 100) {
  ClientState out;
  ParameterSet set(std::make_shared<ParameterLayout>(
      std::vector<ParameterInfo>{{"w", {static_cast<int64_t>(size)}}}));
  set.values()[0] = value;
  out.sets.emplace("c", std::move(set));
  return out;
}

float value_of(const std::shared_ptr<const ClientState>& state) {
  return state->sets.at("c").values()[0];
}

class StateStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(testing::TempDir()) /
        concat("espalier_states_", ::getpid(), "_", testing::UnitTest::GetInstance()->random_seed(),
               testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  size_t files() const {
    return fs::exists(folder_) ? static_cast<size_t>(std::distance(fs::directory_iterator(folder_),
                                                                   fs::directory_iterator()))
                               : 0;
  }
  fs::path folder_;
};

TEST_F(StateStoreTest, TheBaseVersionStaysUntilCommit) {
  StateStore store(1 << 20);
  store.put(3, 1, 0, state(1));
  store.commit(3, 1);
  store.put(3, 4, 1, state(4));
  EXPECT_EQ(value_of(store.get(3, 1)), 1);  // the round may be repeated after a crash
  store.put(3, 4, 1, state(5));             // and is
  EXPECT_EQ(value_of(store.get(3, 1)), 1);
  EXPECT_EQ(value_of(store.get(3, 4)), 5);
  store.commit(3, 4);
  EXPECT_THROW(store.get(3, 1), Error);
  EXPECT_EQ(value_of(store.get(3, 4)), 5);
}

TEST_F(StateStoreTest, TheVersionOfTheLastCheckpointStaysThroughManyRounds) {
  {
    StateStore store(1 << 20);
    store.set_folder(folder_);
    store.put(5, 8, 0, state(8));
    store.make_durable();
    store.commit(5, 8);  // checkpoint of round 10 names version 8
    store.put(5, 12, 8, state(12));
    store.put(5, 14, 12, state(14));
  }
  StateStore next(1 << 20);
  next.set_folder(folder_);
  next.keep_only({{5, 8}});
  EXPECT_EQ(value_of(next.get(5, 8)), 8);  // the rounds after the checkpoint are run again
  next.put(5, 12, 8, state(12));
  next.put(5, 14, 12, state(14));
  EXPECT_EQ(value_of(next.get(5, 8)), 8);
  next.make_durable();
  next.commit(5, 14);
  EXPECT_EQ(files(), 1u);
}

TEST_F(StateStoreTest, ADamagedFileIsAStorageErrorAndBreaksNothingElse) {
  {
    StateStore store(1 << 20);
    store.set_folder(folder_);
    store.put(5, 1, 0, state(1));
    store.make_durable();
  }
  std::filesystem::resize_file(folder_ / "5-1.state", 40);
  StateStore next(1 << 20);
  next.set_folder(folder_);
  EXPECT_THROW(next.get(5, 1), StorageError);
  next.put(6, 2, 0, state(2));
  next.make_durable();
  EXPECT_EQ(value_of(next.get(6, 2)), 2);
}

TEST_F(StateStoreTest, SpillsToDiskAboveTheLimitAndReadsBack) {
  StateStore store(1000);  // two states of 400 bytes
  store.set_folder(folder_);
  for (uint64_t client = 0; client < 20; ++client)
    store.put(client, 1, 0, state(static_cast<float>(client)));
  EXPECT_LE(store.memory_bytes(), 1000u);
  EXPECT_GE(files(), 18u);
  for (uint64_t client = 0; client < 20; ++client)
    EXPECT_EQ(value_of(store.get(client, 1)), static_cast<float>(client));
}

TEST_F(StateStoreTest, SurvivesTheProcessAfterMakeDurable) {
  {
    StateStore store(1 << 20);
    store.set_folder(folder_);
    store.put(7, 2, 0, state(2));
    EXPECT_EQ(files(), 0u);
    store.make_durable();
    store.commit(7, 2);
    store.put(7, 3, 2, state(3));  // lost with the process
  }
  StateStore next(1 << 20);
  next.set_folder(folder_);
  EXPECT_EQ(value_of(next.get(7, 2)), 2);
  EXPECT_THROW(next.get(7, 3), Error);
  next.put(7, 3, 2, state(3));
  next.make_durable();
  next.commit(7, 3);
  EXPECT_EQ(files(), 1u);  // the old version's file is gone
}

TEST_F(StateStoreTest, WhatAnEarlierProcessLeftIsAdopted) {
  {
    StateStore store(1 << 20);
    store.set_folder(folder_);
    store.put(7, 2, 0, state(2));
    store.put(7, 3, 2, state(3));
    store.make_durable();
  }
  StateStore next(1 << 20);
  next.set_folder(folder_);
  next.adopt();
  EXPECT_EQ(next.versions(7), (std::vector<uint32_t>{2, 3}));
  EXPECT_TRUE(next.versions(8).empty());
  EXPECT_EQ(value_of(next.get(7, 2)), 2);
  next.put(7, 3, 2, state(4));  // the round is repeated
  next.make_durable();
  EXPECT_EQ(value_of(next.get(7, 3)), 4);
  next.commit(7, 3);
  EXPECT_EQ(next.versions(7), (std::vector<uint32_t>{3}));
  EXPECT_EQ(files(), 1u);
}

}  // namespace
}  // namespace espalier::client

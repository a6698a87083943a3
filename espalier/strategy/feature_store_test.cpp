#include "espalier/strategy/feature_store.h"

#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "espalier/base/error.h"

namespace espalier::strategy {
namespace {

constexpr float kMax = 1e6f;

std::shared_ptr<const ParameterLayout> layout_of(size_t samples, int64_t size) {
  std::vector<ParameterInfo> tensors;
  for (size_t i = 0; i < samples; ++i) tensors.push_back({std::to_string(i), {size}});
  return std::make_shared<const ParameterLayout>(std::move(tensors));
}

ParameterSet features(size_t samples, int64_t size, uint64_t seed) {
  ParameterSet set(layout_of(samples, size));
  Stream stream{Key(seed)};
  for (float& value : set.values()) value = static_cast<float>(stream.normal());
  return set;
}

std::shared_ptr<const Bytes> encoded(const codec::Codec& codec, const ParameterSet& set) {
  auto bytes = std::make_shared<Bytes>();
  codec.encode(set, Key(3), *bytes);
  return bytes;
}

void keep(FeatureStore& store, FeatureKey key, const std::shared_ptr<const Bytes>& message,
          const std::shared_ptr<const ParameterLayout>& layout) {
  store.put(key, store.check(message, layout, kMax));
}

size_t files_in(const std::filesystem::path& folder) {
  size_t count = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    static_cast<void>(file);
    ++count;
  }
  return count;
}

class FeatureStoreTest : public testing::Test {
 protected:
  std::filesystem::path folder_ =
      std::filesystem::path(testing::TempDir()) /
      concat("features-", testing::UnitTest::GetInstance()->current_test_info()->name());
  std::unique_ptr<codec::Codec> codec_ = codec::make_codec(
      Json::parse(R"([{"stage": "hadamard"}, {"stage": "quantize", "bits": 4}])"), "uplink");
  void TearDown() override { std::filesystem::remove_all(folder_); }
};

TEST_F(FeatureStoreTest, GivesTheSameValuesFromMemoryAndFromDisk) {
  const auto first = features(9, 1024, 1), second = features(5, 1024, 2);
  const auto bytes = encoded(*codec_, first);
  FeatureStore memory(*codec_, 0, folder_), disk(*codec_, bytes->size() + 100, folder_);
  for (FeatureStore* store : {&memory, &disk}) {
    keep(*store, {7}, bytes, first.shared_layout());
    keep(*store, {3, true}, encoded(*codec_, second), second.shared_layout());
  }
  EXPECT_EQ(memory.disk_bytes(), 0u);
  EXPECT_EQ(disk.memory_bytes(), bytes->size());  // the second does not fit any more
  EXPECT_EQ(disk.disk_bytes(), encoded(*codec_, second)->size());
  EXPECT_EQ(files_in(folder_), 0u);  // nothing that could be left behind

  ParameterSet whole(first.shared_layout());
  codec_->decode(*bytes, whole);
  std::vector<float> one(1024), other(1024);
  for (size_t i = 9; i-- > 0;) {
    memory.fetch({7}, i, one);
    disk.fetch({7}, i, other);
    EXPECT_EQ(one, other);
    EXPECT_TRUE(std::ranges::equal(one, whole.values(first.layout().tensors()[i])));
  }
  for (size_t i = 0; i < 5; ++i) {
    memory.fetch({3, true}, i, one);
    disk.fetch({3, true}, i, other);
    EXPECT_EQ(one, other);
  }
  EXPECT_EQ(disk.message({3, true}).bytes(), *encoded(*codec_, second));
  EXPECT_EQ(disk.message({3, false}).size(), 0u);
}

TEST_F(FeatureStoreTest, CountsWhatItHolds) {
  const auto set = features(4, 600, 1), larger = features(8, 600, 1);
  const auto bytes = encoded(*codec_, set);
  FeatureStore store(*codec_, bytes->size(), folder_);
  keep(store, {1}, bytes, set.shared_layout());
  keep(store, {1}, bytes, set.shared_layout());  // takes the place of the first
  EXPECT_EQ(store.memory_bytes(), bytes->size());
  EXPECT_EQ(store.disk_bytes(), 0u);
  keep(store, {1}, encoded(*codec_, larger), larger.shared_layout());
  EXPECT_EQ(store.memory_bytes(), 0u);
  EXPECT_EQ(store.disk_bytes(), encoded(*codec_, larger)->size());
  store.erase({1});
  store.erase({2});
  EXPECT_EQ(store.disk_bytes(), 0u);
  keep(store, {1}, bytes, set.shared_layout());
  store.clear();
  EXPECT_EQ(store.memory_bytes(), 0u);
}

// Messages come and go in other sizes; what lies on disk must stay what it was.
TEST_F(FeatureStoreTest, RoomOnDiskIsUsedAgain) {
  FeatureStore store(*codec_, 1, folder_);
  std::map<uint64_t, std::shared_ptr<const Bytes>> held;
  Stream stream(Key(4));
  for (uint64_t step = 0; step < 200; ++step) {
    const uint64_t client = stream.below(6);
    if (stream.below(4) == 0) {
      store.erase({client});
      held.erase(client);
    } else {
      const auto set = features(1 + stream.below(5), 600, step);
      held[client] = encoded(*codec_, set);
      keep(store, {client}, held[client], set.shared_layout());
    }
    uint64_t total = 0;
    for (const auto& [other, bytes] : held) {
      ASSERT_EQ(store.message({other}).bytes(), *bytes) << step;
      total += bytes->size();
    }
    ASSERT_EQ(store.disk_bytes(), total);
  }
  store.clear();
  EXPECT_EQ(store.disk_bytes(), 0u);
}

TEST_F(FeatureStoreTest, RefusesBadMessagesAndKeepsWhatItHad) {
  auto set = features(4, 600, 1);
  FeatureStore store(*codec_, 0, folder_);
  const auto good = encoded(*codec_, set);
  keep(store, {1}, good, set.shared_layout());
  set.values()[601] = 2e6f;  // of sample 1
  EXPECT_THROW(keep(store, {1}, encoded(*codec_, set), set.shared_layout()), Error);
  EXPECT_THROW(keep(store, {1}, good, layout_of(5, 600)), Error);
  auto damaged = std::make_shared<Bytes>(*good);
  (*damaged)[damaged->size() / 2] ^= 4;
  EXPECT_THROW(keep(store, {1}, damaged, set.shared_layout()), Error);
  EXPECT_EQ(store.message({1}).bytes(), *good);
  EXPECT_EQ(store.memory_bytes(), good->size());
}

TEST_F(FeatureStoreTest, AFolderThatCannotBeWrittenIsAStorageError) {
  const auto set = features(4, 600, 1);
  FeatureStore store(*codec_, 1, "/proc/espalier");
  EXPECT_THROW(keep(store, {1}, encoded(*codec_, set), set.shared_layout()), StorageError);
  EXPECT_EQ(store.message({1}).size(), 0u);
}

TEST_F(FeatureStoreTest, ManyThreadsPutAndFetch) {
  FeatureStore store(*codec_, 20'000, folder_);
  const auto run = [](const auto& work) {
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; ++t) threads.emplace_back(work, t);
    for (std::thread& thread : threads) thread.join();
  };
  run([&](uint64_t t) {
    for (uint64_t client = t; client < 16; client += 4) {
      const auto set = features(6, 1024, client);
      keep(store, {client}, encoded(*codec_, set), set.shared_layout());
    }
  });
  EXPECT_LE(store.memory_bytes(), 20'000u);
  EXPECT_GT(store.disk_bytes(), 0u);
  std::vector<double> error(4, 0);
  run([&](uint64_t t) {
    std::vector<float> out(1024);
    for (uint64_t client = 0; client < 16; ++client) {
      const auto set = features(6, 1024, client);
      for (size_t i = 0; i < 6; ++i) {
        store.fetch({client}, i, out);
        subtract(out, set.values(set.layout().tensors()[i]), out);
        error[t] += squared_norm(out) / (16 * 6 * 1024);
      }
    }
  });
  for (const double e : error) {
    EXPECT_GT(e, 0);
    EXPECT_LT(e, 0.05);  // 4 bits; another sample's values would be at 2
    EXPECT_EQ(e, error[0]);
  }
}

}  // namespace
}  // namespace espalier::strategy

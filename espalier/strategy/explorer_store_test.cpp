#include "espalier/strategy/explorer_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "espalier/base/error.h"

namespace espalier::strategy {
namespace {

TEST(ExplorerStore, GivesBackWhatWasPutInTheOrderOfClients) {
  ExplorerStore store({}, 3);
  std::vector<std::thread> threads;
  for (const float client : {5.0f, 1.0f, 3.0f}) {
    threads.emplace_back([&store, client] {
      store.put(static_cast<uint64_t>(client), std::vector<float>{client, 2 * client, 3 * client});
    });
  }
  for (auto& thread : threads) thread.join();
  store.put(1, std::vector<float>{7, 8, 9});  // says something else
  std::vector<uint64_t> clients;
  std::vector<float> first;
  store.for_each([&](uint64_t client, std::span<const float> values) {
    clients.push_back(client);
    first.push_back(values[0]);
    EXPECT_EQ(values.size(), 3u);
  });
  EXPECT_EQ(clients, (std::vector<uint64_t>{1, 3, 5}));
  EXPECT_EQ(first, (std::vector<float>{7, 3, 5}));
}

TEST(ExplorerStore, AFolderThatCannotBeIsAStorageError) {
  EXPECT_THROW(ExplorerStore("/dev/null/no", 3), StorageError);
}

}  // namespace
}  // namespace espalier::strategy

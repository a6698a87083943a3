#include "espalier/serve/waiting_room.h"

#include <gtest/gtest.h>

namespace espalier::serve {
namespace {

using std::chrono::seconds;

TEST(WaitingRoom, WhoEntersIsFoundAndLeavesOnce) {
  WaitingRoom room;
  const WaitingRoom::Clock::time_point start{};
  std::vector<int> answered;
  const uint64_t a = room.enter(
      7, [&](auto) { answered.push_back(1); }, start + seconds(30));
  const uint64_t b = room.enter(
      7, [&](auto) { answered.push_back(2); }, start + seconds(10));
  const uint64_t c = room.enter(
      8, [&](auto) { answered.push_back(3); }, start + seconds(20));
  EXPECT_EQ(room.tickets_of(7), (std::vector{a, b}));
  EXPECT_TRUE(room.has(8));
  EXPECT_FALSE(room.has(9));
  EXPECT_TRUE(room.tickets_of(9).empty());
  EXPECT_EQ(room.next_end(), start + seconds(10));
  const auto waiter = room.leave(b);
  ASSERT_TRUE(waiter);
  EXPECT_EQ(waiter->client, 7U);
  waiter->answer({});
  EXPECT_EQ(answered, (std::vector{2}));
  EXPECT_FALSE(room.leave(b));
  EXPECT_EQ(room.next_end(), start + seconds(20));
  EXPECT_TRUE(room.leave(c));
  EXPECT_FALSE(room.has(8));
  EXPECT_EQ(room.tickets_of(7), (std::vector{a}));
}

TEST(WaitingRoom, WhoseTimeIsOverLeavesInThatOrder) {
  WaitingRoom room;
  const WaitingRoom::Clock::time_point start{};
  for (const uint64_t client : {5, 4, 3, 2}) room.enter(client, {}, start + seconds(client));
  const auto clients = [](const std::vector<WaitingRoom::Waiter>& waiters) {
    std::vector<uint64_t> out;
    for (const auto& waiter : waiters) out.push_back(waiter.client);
    return out;
  };
  EXPECT_TRUE(room.leave_overdue(start + seconds(1)).empty());
  EXPECT_EQ(clients(room.leave_overdue(start + seconds(3))), (std::vector<uint64_t>{2, 3}));
  room.end(5, start);
  EXPECT_EQ(room.clients(), (std::vector<uint64_t>{4, 5}));
  EXPECT_EQ(clients(room.leave_overdue(start)), (std::vector<uint64_t>{5}));
  room.enter(6, {}, start + seconds(9));
  room.end_all(start);
  EXPECT_EQ(room.leave_overdue(start).size(), 2U);
  EXPECT_EQ(room.next_end(), std::nullopt);
}

}  // namespace
}  // namespace espalier::serve

#include <gmock/gmock.h>

#include <deque>

#include "espalier/serve/test_network.h"

namespace espalier::serve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class OpenPopulation : public NetworkBackendTest {
  void tune(NetworkOptions& options) override {
    options.open = true;
    options.over_selection = 1.5;
    options.select_window_s = 0.3;
    options.min_fraction = 0.5;
    options.lease_ms = 400;
    options.round_deadline_s = 30;
  }
};

TEST_F(OpenPopulation, DrawsAmongThoseThatAreThereAndEndsWhenEnoughHaveAnswered) {
  EXPECT_TRUE(backend_->wait_for_clients(0, nullptr, [](uint64_t, uint64_t) {}));
  std::deque<Player> players;
  for (const uint64_t id : {7, 2, 5}) players.emplace_back(*backend_, id).check_in();
  const auto chosen = backend_->select(Key(1), {}, 2);  // 3 for 2
  EXPECT_THAT(chosen, testing::UnorderedElementsAre(2, 5, 7));
  EXPECT_EQ(backend_->select(Key(1), {}, 2), chosen);
  EXPECT_THAT(backend_->select(Key(1), std::vector<uint64_t>{5, 6}, 2), ElementsAre(5));
  backend_->select(Key(1), {}, 2);
  auto round = exchange(chosen);
  for (Player* one : {&players[0], &players[2]}) {
    const auto task = one->task();
    one->push(one->open(task, Player::update(7)), Player::update(7));
  }
  round.get();  // 2 was asked and is not waited for
  EXPECT_EQ(traffic_.updates.size(), 2U);
}

class Crowd : public NetworkBackendTest {
  void tune(NetworkOptions& options) override {
    options.open = true;
    options.over_selection = 1;
    options.min_fraction = 0.5;
    options.select_window_s = 0.1;
    options.pace.oversupply = 1;
    options.pace.first_line = 0;
  }
};

TEST_F(Crowd, WhoIsNotNeededOrWasJustUsedIsToldWhenToComeBack) {
  std::deque<Player> players;
  for (const uint64_t id : {0, 1, 2, 3}) players.emplace_back(*backend_, id).check_in();
  EXPECT_EQ(players[0].check_in().retry.max_ms, 0U) << "four devices that nobody has heard ask";
  std::vector<std::future<rpc::AwaitReply>> waits;
  for (Player& one : players) waits.push_back(one.wait());  // nothing is known yet: all stay
  const auto chosen = backend_->select(Key(1), {}, 1);
  ASSERT_EQ(chosen.size(), 1U);
  auto round = exchange(chosen);
  const auto task = std::get<rpc::TaskNotice>(waits[chosen[0]].get().next);
  Player& used = players[chosen[0]];
  EXPECT_EQ(used.push(used.open(task, Player::update(7)), Player::update(7)).verdict,
            rpc::Verdict::kAccepted);
  round.get();
  // A broken connection asks again, and there is one too many. Four devices and one wanted a
  // minute: T is four minutes.
  const uint64_t other = chosen[0] == 0 ? 1 : 0;
  const auto window = std::get<rpc::RetryWindow>(players[other].wait().get().next);
  EXPECT_EQ(window.min_ms, 180'000U);
  EXPECT_EQ(window.max_ms, 300'000U);
  auto again = used.wait();  // it may be asked to evaluate
  EXPECT_EQ(again.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  const auto present = backend_->select(Key(1), {}, 4);  // 4 are wanted, and 3 are enough
  EXPECT_THAT(present, testing::SizeIs(3));
  EXPECT_THAT(present, testing::Not(testing::Contains(other)));
  backend_->commit(3, {});  // the round is over
  EXPECT_EQ(std::get<rpc::RetryWindow>(again.get().next).min_ms, 180'000U);
  const uint64_t third = chosen[0] == 3 ? 2 : 3;
  EXPECT_THAT(
      backend_->select(
          Key(1), std::vector<uint64_t>{std::min(chosen[0], third), std::max(chosen[0], third)}, 1),
      ElementsAre(third));
  EXPECT_NEAR(used.check_in().retry.max_ms, 4 * 1000 / 200, 1);
}

TEST_F(OpenPopulation, AnEvaluationDoesNotWaitForWhoHasLeft) {
  std::deque<Player> players;
  for (const uint64_t id : {2, 5, 7}) players.emplace_back(*backend_, id).check_in();
  traffic_.kind = wire::TaskKind::kEvaluate;
  auto round = exchange({2, 5, 7});
  const auto task = players[0].task();
  players[0].push(players[0].open(task, Player::update(7)), Player::update(7));
  players[1].report({}, rpc::Phase::kLeaving);
  // The third is silent for longer than its lease.
  EXPECT_EQ(round.wait_for(std::chrono::seconds(15)), std::future_status::ready);
  round.get();
  EXPECT_EQ(traffic_.updates.size(), 1U);
}

TEST_F(OpenPopulation, WhoIsStillFetchingHasNotLeft) {
  Player slow(*backend_, 2);
  slow.check_in();
  traffic_.kind = wire::TaskKind::kEvaluate;
  auto round = exchange({2});
  const auto task = slow.task();
  const auto download = slow.download(task);
  for (int i = 0; i < 10; ++i) {  // two and a half leases
    download->pieces(0, 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_EQ(round.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  slow.push(slow.open(task, Player::update(7)), Player::update(7));
  round.get();
  EXPECT_EQ(traffic_.updates.size(), 1U);
}

TEST_F(OpenPopulation, ThePageHasThoseThatAreConnected) {
  Player(*backend_, 3).check_in();
  Player five(*backend_, 5);
  five.check_in();
  five.report({}, rpc::Phase::kLeaving);
  const auto shown = backend_->clients();
  ASSERT_EQ(shown.size(), 1U);
  EXPECT_EQ(shown[0].client, 3U);
  EXPECT_TRUE(shown[0].connected);
}

TEST_F(OpenPopulation, WhoWorksInVainIsNoDropOut) {
  std::deque<Player> players;
  for (const uint64_t id : {2, 5, 7}) players.emplace_back(*backend_, id).check_in();
  const auto chosen = backend_->select(Key(1), {}, 2);  // 3 for 2
  ASSERT_THAT(chosen, testing::UnorderedElementsAre(2, 5, 7));
  auto round = exchange(chosen);
  const auto first = players[0].task(), second = players[1].task(), third = players[2].task();
  EXPECT_TRUE(players[2].report(third.ticket, rpc::Phase::kTraining).go_on);
  players[0].push(players[0].open(first, Player::update(7)), Player::update(7));
  players[1].push(players[1].open(second, Player::update(7)), Player::update(7));
  round.get();
  EXPECT_FALSE(players[2].report(third.ticket, rpc::Phase::kTraining).go_on) << "drop the task";
  // The newest round says nothing yet: one more.
  traffic_.salt = 1;
  auto next = exchange({2});
  const auto again = players[0].task();
  players[0].push(players[0].open(again, Player::update(7)), Player::update(7));
  next.get();
  EXPECT_EQ(backend_->drop_out(), 0.0);
}

TEST_F(OpenPopulation, WaitsForTheLeastThatARoundNeeds) {
  volatile std::sig_atomic_t stop = 0;
  options_.stop = &stop;
  restart();
  auto chosen = std::async(std::launch::async, [&] { return backend_->select(Key(1), {}, 4); });
  Player one(*backend_, 1), two(*backend_, 2);
  one.check_in();
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  EXPECT_EQ(chosen.wait_for(std::chrono::seconds(0)), std::future_status::timeout) << "1 of 2";
  auto waits = one.wait();  // longer than the lease
  two.check_in();
  EXPECT_THAT(chosen.get(), testing::UnorderedElementsAre(1, 2));
  std::this_thread::sleep_for(std::chrono::milliseconds(600));  // nothing is heard of two
  stop = 1;
  EXPECT_THAT(error_of([&] { backend_->select(Key(1), {}, 4); }),
              HasSubstr("stopped while 1 of 6 clients were there"));
}

}  // namespace
}  // namespace espalier::serve

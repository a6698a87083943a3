#include <gmock/gmock.h>

#include "espalier/serve/test_network.h"

namespace espalier::serve {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(NetworkBackendTest, ATaskGoesOutAndAnUpdateComesIn) {
  Player one(*backend_, 1), two(*backend_, 2);
  EXPECT_EQ(one.check_in(600).run, 77U);
  two.check_in(400);
  EXPECT_EQ(backend_->num_samples(1), 600U);
  auto early = one.wait();  // before there is anything to do
  auto round = exchange({1, 2});
  const auto task = std::get<rpc::TaskNotice>(early.get().next);
  EXPECT_EQ(task.ticket, (rpc::Ticket{77, 3, 0, 1, 0}));
  const Bytes bytes = one.fetch(task);
  EXPECT_EQ(bytes.size(), task.bytes);
  EXPECT_EQ(digest64(bytes), task.digest);
  EXPECT_EQ(wire::read_stream(bytes).head, (Bytes{1, 2, 1}));
  const Bytes first = Player::update(7), second = Player::update(8);
  EXPECT_EQ(one.push(one.open(task, first), first).verdict, rpc::Verdict::kAccepted);
  // Once more is a success, another one is refused, and neither is counted.
  EXPECT_EQ(one.push(one.open(task, first), first).verdict, rpc::Verdict::kDuplicate);
  EXPECT_EQ(one.push(one.open(task, second), second).verdict, rpc::Verdict::kRefused);
  const auto other = two.task();
  EXPECT_EQ(two.push(two.open(other, second), second).verdict, rpc::Verdict::kAccepted);
  round.get();
  EXPECT_EQ(traffic_.updates.at(1), Bytes{7});
  EXPECT_EQ(traffic_.asked.at(1), 1);
  EXPECT_EQ(one.push(one.open(task, first), first).verdict, rpc::Verdict::kStale);
  EXPECT_TRUE(fs::is_empty(folder_ / "spool" / "arriving"));
}

TEST_F(NetworkBackendTest, AnUpdateGoesOnAfterACut) {
  Player one(*backend_, 1);
  one.check_in();
  auto round = exchange({1});
  const auto task = one.task();
  const Bytes update = Player::update(9), other = Player::update(6);
  one.push(one.open(task, update), update, 50);
  EXPECT_EQ(one.push(one.open(task, update), update, 80).verdict, rpc::Verdict::kMore);
  EXPECT_EQ(one.resumed_at, 50U);
  one.push(one.open(task, other), other, 20);  // another one begins anew
  EXPECT_EQ(one.resumed_at, 0U);
  EXPECT_EQ(one.push(one.open(task, update), update).verdict, rpc::Verdict::kAccepted);
  EXPECT_EQ(one.resumed_at, 0U);
  round.get();
  EXPECT_EQ(traffic_.updates.at(1), Bytes{9});
}

TEST_F(NetworkBackendTest, WhatIsDamagedOrNonsenseIsNotCounted) {
  Player one(*backend_, 1), two(*backend_, 2);
  one.check_in();
  two.check_in();
  auto round = exchange({1, 2});
  const auto task = one.task();
  const Bytes update = Player::update(9);
  auto open = one.open(task, update);
  open.digest ^= 1;
  EXPECT_EQ(one.push(open, update).verdict, rpc::Verdict::kBusy);  // arrived damaged: again
  const Bytes faulty = Player::update(0);
  EXPECT_EQ(one.push(one.open(task, faulty), faulty).verdict, rpc::Verdict::kRefused);
  const auto second = two.task();
  const Bytes garbage(40, uint8_t{255});
  EXPECT_EQ(two.push(two.open(second, garbage), garbage).verdict, rpc::Verdict::kRefused);
  round.get();
  EXPECT_TRUE(traffic_.failures.contains(2));
}

TEST_F(NetworkBackendTest, WhatIsTooLongIsRefusedBeforeAnyByte) {
  Player one(*backend_, 1);
  one.check_in();
  auto round = exchange({1});
  const auto task = one.task();
  EXPECT_EQ(task.max_update_bytes, 10'000U);
  auto open = one.open(task, Player::update(9));
  open.bytes = 10'001;
  EXPECT_THAT(refusal([&] { one.push(open, {}); }), HasSubstr("at most 10000"));
  open.bytes = 0;
  EXPECT_NE(refusal([&] { one.push(open, {}); }), "");
  open = one.open(task, Player::update(9));
  open.task_digest ^= 1;
  EXPECT_EQ(one.push(open, Player::update(9)).verdict, rpc::Verdict::kStale);
  open = one.open(task, Player::update(9));
  open.ticket.run = 1;
  EXPECT_EQ(one.push(open, Player::update(9)).verdict, rpc::Verdict::kStale);
  one.report(task.ticket, rpc::Phase::kFailed, "enough");
  round.get();
}

TEST_F(NetworkBackendTest, ClientsHearTheLimitThatCounts) {
  backend_->limit_updates(50);
  Player one(*backend_, 1);
  one.check_in();
  auto round = exchange({1});
  const auto task = one.task();
  EXPECT_EQ(task.max_update_bytes, 50U);
  EXPECT_THAT(refusal([&] { one.push(one.open(task, Player::update(9)), {}); }),
              HasSubstr("at most 50 are taken (network.max_update_mb)"));
  one.report(task.ticket, rpc::Phase::kFailed, "too long");
  round.get();
}

TEST_F(NetworkBackendTest, AClientThatFailsIsAwaitedNoMore) {
  Player one(*backend_, 1), nine(*backend_, 9);
  one.check_in();
  nine.check_in();
  auto round = exchange({1, 9});
  auto never = nine.wait(500);  // its task cannot be made
  const auto task = one.task();
  EXPECT_TRUE(one.report(task.ticket, rpc::Phase::kTraining).go_on);
  EXPECT_FALSE(one.report(task.ticket, rpc::Phase::kFailed, "out of memory").go_on);
  round.get();
  EXPECT_EQ(traffic_.failures.at(1), "out of memory");
  EXPECT_THAT(traffic_.failures.at(9), HasSubstr("no task"));
  EXPECT_TRUE(std::holds_alternative<rpc::RetryWindow>(never.get().next));
  EXPECT_FALSE(one.report(task.ticket, rpc::Phase::kTraining).go_on);  // it is over
}

class ShortDeadline : public NetworkBackendTest {
  void tune(NetworkOptions& options) override { options.round_deadline_s = 0.3; }
};
TEST_F(ShortDeadline, WhoDoesNotAnswerInTimeIsLeftBehind) {
  Player one(*backend_, 1), two(*backend_, 2);
  one.check_in();
  two.check_in();
  auto round = exchange({1, 2});
  const auto task = one.task(), late = two.task();
  const Bytes update = Player::update(9);
  EXPECT_EQ(one.push(one.open(task, update), update).verdict, rpc::Verdict::kAccepted);
  two.push(two.open(late, update), update, 30);
  round.get();
  EXPECT_FALSE(traffic_.updates.contains(2));
  EXPECT_EQ(two.push(two.open(late, update), update).verdict, rpc::Verdict::kStale);
  EXPECT_TRUE(fs::is_empty(folder_ / "spool" / "arriving"));
}

TEST_F(NetworkBackendTest, OneProcessActsAsAClient) {
  Player first(*backend_, 1, 'a'), second(*backend_, 1, 'b');
  first.check_in();
  EXPECT_THAT(refusal([&] { second.check_in(); }), HasSubstr("connected from elsewhere"));
  EXPECT_THAT(refusal([&] { second.wait(); }), HasSubstr("another process"));
  first.report({}, rpc::Phase::kLeaving);
  EXPECT_NO_THROW(second.check_in());
  EXPECT_THAT(refusal([&] { first.wait(); }), HasSubstr("another process"));
  // Who knows the one before takes over at once.
  rpc::CheckInRequest after = Player(*backend_, 1, 'c').hello();
  after.previous_session = std::string(16, 'b');
  EXPECT_NO_THROW(backend_->check_in({1, "", ""}, after));
}

TEST_F(NetworkBackendTest, WhatDoesNotFitIsRefusedAtTheDoor) {
  Player one(*backend_, 1);
  const auto with = [&](const std::function<void(rpc::CheckInRequest&)>& change) {
    rpc::CheckInRequest request = one.hello();
    change(request);
    return refusal([&] { backend_->check_in({1, "", ""}, request); });
  };
  EXPECT_THAT(with([](auto& r) { r.version.task_format = 3; }), HasSubstr("same version"));
  EXPECT_THAT(with([](auto& r) { r.run = 5; }), HasSubstr("another run"));
  EXPECT_THAT(with([](auto& r) { r.data.sample_shape = {3}; }), HasSubstr("shape"));
  EXPECT_THAT(with([](auto& r) { r.data.num_classes = 4; }), HasSubstr("classes"));
  EXPECT_THAT(with([](auto& r) { r.num_samples = 0; }), HasSubstr("samples"));
  EXPECT_THAT(with([](auto& r) { r.num_samples = uint64_t{1} << 40; }), HasSubstr("samples"));
  EXPECT_THAT(refusal([&] { backend_->check_in({10, "", ""}, one.hello()); }), HasSubstr("0 to 9"));
  EXPECT_EQ(backend_->clients()[1].enrolled, false);
  one.check_in(10);
  EXPECT_THAT(refusal([&] { one.check_in(11); }), HasSubstr("10 samples"));
}

TEST_F(NetworkBackendTest, TheEndIsToldToWhoWaitsAndWhoAsksLater) {
  Player one(*backend_, 1), two(*backend_, 2);
  one.check_in();
  two.check_in();
  auto waits = one.wait();
  auto over = std::async(std::launch::async, [&] { backend_->finish(true, "", 20); });
  EXPECT_TRUE(std::get<rpc::Finished>(waits.get().next).completed);
  EXPECT_TRUE(std::get<rpc::Finished>(two.wait().get().next).completed);
  over.get();  // as soon as both know
}

TEST_F(NetworkBackendTest, AServerThatStopsAsksClientsToComeBack) {
  Player one(*backend_, 1), two(*backend_, 2);
  one.check_in();
  two.check_in();
  auto waits = one.wait();
  backend_->go_away();
  for (rpc::AwaitReply reply : {waits.get(), two.wait().get()}) {
    const auto* window = std::get_if<rpc::RetryWindow>(&reply.next);
    ASSERT_NE(window, nullptr) << "the run is not over";
    EXPECT_GE(window->min_ms, 1000U);
    EXPECT_LE(window->max_ms, 5000U);
  }
}

TEST_F(NetworkBackendTest, AServerThatStopsDoesNotWaitForAnEvaluation) {
  options_.stop = &stop_now_;
  options_.drain_s = 0.1;
  restart();
  uint64_t client = 1;
  for (const auto kind : {wire::TaskKind::kEvaluate, wire::TaskKind::kCalibrate}) {
    stop_now_ = 0;
    traffic_.kind = kind;
    Player one(*backend_, client);
    one.check_in();
    auto round = exchange({client, 8});
    const auto task = one.task();
    one.push(one.open(task, Player::update(7)), Player::update(7));
    stop_now_ = 1;
    // A part of the answers would be another result: the round is made again.
    EXPECT_THAT(error_of([&] { round.get(); }), HasSubstr("missing: 8"));
    ++client;
  }
}

TEST_F(NetworkBackendTest, VersionsThatAreCommittedAreTold) {
  Player one(*backend_, 1);
  one.check_in();
  backend_->commit(4, {{1, 4}});
  EXPECT_EQ(one.wait(0).get().committed_version, 4U);
}

TEST_F(NetworkBackendTest, WhoIsMissingIsNamed) {
  Player one(*backend_, 1);
  one.check_in();
  EXPECT_THAT(
      error_of([&] { backend_->wait_for_clients(0.05, nullptr, [](uint64_t, uint64_t) {}); }),
      HasSubstr("9 clients have not joined within 0.05 s: 0, 2, 3"));
  volatile std::sig_atomic_t stop = 1;
  EXPECT_FALSE(backend_->wait_for_clients(60, &stop, [](uint64_t, uint64_t) {}));
}

TEST_F(NetworkBackendTest, AServerThatStartsAgainCountsWhatItHad) {
  options_.stop = &stop_now_;
  options_.drain_s = 0;
  restart();
  Player one(*backend_, 1), two(*backend_, 2);
  one.check_in();
  two.check_in();
  auto round = exchange({1, 2});
  const auto task = one.task();
  EXPECT_EQ(one.push(one.open(task, Player::update(7)), Player::update(7)).verdict,
            rpc::Verdict::kAccepted);
  stop_now_ = 1;
  EXPECT_THAT(error_of([&] { round.get(); }),
              HasSubstr("1 of 2 clients have answered; missing: 2"));
  stop_now_ = 0;
  restart();
  Player again(*backend_, 2, 'b');
  again.check_in();
  auto second = exchange({1, 2});
  const auto other = again.task();
  EXPECT_EQ(again.push(again.open(other, Player::update(8)), Player::update(8)).verdict,
            rpc::Verdict::kAccepted);
  second.get();  // client 1 was not asked
  EXPECT_EQ(traffic_.updates.at(1), Bytes{7});
  EXPECT_EQ(traffic_.updates.at(2), Bytes{8});
  backend_->commit(2, {});
  EXPECT_FALSE(fs::is_empty(folder_ / "spool" / "kept"));  // of round 3
  backend_->commit(3, {});
  EXPECT_TRUE(fs::is_empty(folder_ / "spool" / "kept"));
}

TEST_F(NetworkBackendTest, WhatWasKeptForAnotherTaskIsAskedAgain) {
  Player one(*backend_, 1);
  one.check_in();
  auto round = exchange({1});
  const auto task = one.task();
  one.push(one.open(task, Player::update(7)), Player::update(7));
  round.get();
  traffic_.salt = 9;  // the run goes on with another configuration
  restart();
  Player again(*backend_, 1, 'b');
  again.check_in();
  auto second = exchange({1});
  const auto other = again.task();
  EXPECT_NE(other.digest, task.digest);
  again.push(again.open(other, Player::update(8)), Player::update(8));
  second.get();
  EXPECT_EQ(traffic_.updates.at(1), Bytes{8});
}

class Majority : public NetworkBackendTest {
  void tune(NetworkOptions& options) override {
    options.min_fraction = 0.6;
    options.round_deadline_s = 0.3;
  }
};

TEST_F(Majority, TooFewAnswersAreNoRoundAndWhatCameCountsInTheNextAttempt) {
  std::vector<Json> events;
  options_.on_event = [&](const Json& event) { events.push_back(event); };
  restart();
  Player one(*backend_, 1), two(*backend_, 2);
  one.check_in();
  two.check_in();
  auto round = exchange({1, 2});
  const auto task = one.task();
  one.push(one.open(task, Player::update(7)), Player::update(7));
  EXPECT_THAT(error_of([&] { round.get(); }), HasSubstr("attempt 1: 1 of 2"));
  auto second = exchange({1, 2});
  const auto other = two.task();
  EXPECT_EQ(other.ticket.attempt, 2U);
  // Who still works for the first attempt may go on: the task is the same.
  rpc::Ticket first = other.ticket;
  first.attempt = 1;
  EXPECT_TRUE(two.report(first, rpc::Phase::kTraining).go_on);
  two.push(two.open(other, Player::update(8)), Player::update(8));
  second.get();
  EXPECT_EQ(traffic_.updates.size(), 2U);
  std::vector<std::string> names;
  for (const Json& event : events) names.push_back(event["event"]);
  EXPECT_THAT(names, ElementsAre("joined", "joined", "opened", "accepted", "closed", "opened",
                                 "accepted", "accepted", "closed"));
}

}  // namespace
}  // namespace espalier::serve

#include "espalier/serve/network_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <deque>
#include <future>

#include "espalier/base/test_error.h"

namespace espalier::serve {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

// A round that takes what it gets.
class FakeTraffic final : public round::RoundTraffic {
 public:
  round::ExchangeId id() const override { return {3, 0, wire::TaskKind::kTrain}; }
  wire::EncodedMessage task(uint64_t client) override {
    const std::lock_guard lock(mutex);
    ++asked[client];
    if (client == 9) fail("test", "no task");
    wire::EncodedMessage message;
    message.head = {1, 2, static_cast<uint8_t>(client)};
    if (salt != 0) message.head.push_back(salt);
    message.bodies.push_back(std::make_shared<Bytes>(1000, uint8_t{5}));
    return message;
  }
  round::Receipt delivered(uint64_t client, const wire::EncodedMessage& update) override {
    const std::lock_guard lock(mutex);
    updates[client] = update.head;
    return update.head == Bytes{0} ? round::Receipt::kFaulty : round::Receipt::kCounted;
  }
  void failed(uint64_t client, const std::string& reason) override {
    const std::lock_guard lock(mutex);
    failures[client] = reason;
  }
  uint8_t salt = 0;
  std::mutex mutex;
  std::map<uint64_t, int> asked;
  std::map<uint64_t, Bytes> updates;
  std::map<uint64_t, std::string> failures;
};

// One client, played by the test.
class Player {
 public:
  Player(NetworkBackend& backend, uint64_t id, char session = 'a')
      : backend_(backend), caller_{id, "", ""}, session_(16, session) {}

  rpc::CheckInRequest hello(uint64_t samples = 10) const {
    rpc::CheckInRequest request;
    request.version.task_format = 4;
    request.version.codec_format = 1;
    request.data.sample_shape = {2};
    request.data.num_classes = 3;
    request.num_samples = samples;
    request.session = session_;
    return request;
  }
  rpc::CheckInReply check_in(uint64_t samples = 10) {
    return backend_.check_in(caller_, hello(samples));
  }
  std::future<rpc::AwaitReply> wait(uint32_t ms = 20'000) {
    auto promise = std::make_shared<std::promise<rpc::AwaitReply>>();
    auto future = promise->get_future();
    backend_.await(caller_, {0, session_, ms},
                   [promise](const rpc::AwaitReply& reply) { promise->set_value(reply); });
    return future;
  }
  rpc::TaskNotice task() { return std::get<rpc::TaskNotice>(wait().get().next); }
  Bytes fetch(const rpc::TaskNotice& task) {
    const auto download = backend_.fetch(caller_, {task.ticket, session_, task.digest, 0});
    Bytes bytes(download->size());
    // In odd pieces, across the borders of head and body.
    for (size_t at = 0; at < bytes.size();) {
      const size_t count = std::min<size_t>(7, bytes.size() - at);
      for (const auto piece : download->pieces(at, count)) {
        std::ranges::copy(piece, bytes.begin() + static_cast<ptrdiff_t>(at));
        at += piece.size();
      }
    }
    return bytes;
  }
  static Bytes update(uint8_t what) {
    wire::EncodedMessage message;
    message.head = {what};
    message.bodies.push_back(std::make_shared<Bytes>(100, what));
    return wire::write_stream(message);
  }
  rpc::PushOpen open(const rpc::TaskNotice& task, const Bytes& update) const {
    return {task.ticket, session_, task.digest, update.size(), digest64(update)};
  }
  // As much of it as `until` says, from where the server is.
  rpc::PushReply push(const rpc::PushOpen& open, const Bytes& update, size_t until = SIZE_MAX) {
    rpc::PushReply reply;
    const auto upload = backend_.push(caller_, open, reply);
    if (!upload) return reply;
    resumed_at = upload->received();
    const size_t end = std::min(until, update.size());
    while (upload->received() < end) {
      const uint64_t at = upload->received();
      upload->append(at, {std::span(update).subspan(at, std::min<size_t>(10, end - at))});
    }
    if (end < update.size()) return reply;
    std::promise<rpc::PushReply> promise;
    upload->finish([&](const rpc::PushReply& verdict) { promise.set_value(verdict); });
    return promise.get_future().get();
  }
  rpc::ReportReply report(const rpc::Ticket& ticket, rpc::Phase phase,
                          const std::string& why = "") {
    return backend_.report(caller_, {ticket, session_, phase, 0, why});
  }
  uint64_t resumed_at = 0;

 private:
  NetworkBackend& backend_;
  rpc::Caller caller_;
  std::string session_;
};

class NetworkBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    NetworkOptions& options = options_;
    options.run = 77;
    options.num_clients = 10;
    options.version = {rpc::kProtocol, 4, 1, "test"};
    options.folder = folder_;
    options.workers = 2;
    options.lease_ms = 5000;
    options.max_update_bytes = 10'000;
    tune(options);
    backend_.emplace(options);
    rpc::DataSpec data;
    data.sample_shape = {2};
    data.num_classes = 3;
    backend_->describe(data);
  }
  void TearDown() override {
    backend_.reset();
    fs::remove_all(folder_);
  }
  virtual void tune(NetworkOptions&) {}
  NetworkOptions options_;
  // A server that starts again in the same folder.
  void restart() {
    backend_.reset();
    traffic_.updates.clear();
    traffic_.failures.clear();
    backend_.emplace(options_);
    rpc::DataSpec data;
    data.sample_shape = {2};
    data.num_classes = 3;
    backend_->describe(data);
  }
  // The exchange runs in a thread of its own until everybody has answered.
  std::future<void> exchange(std::vector<uint64_t> clients) {
    return std::async(std::launch::async, [this, clients] { backend_->run(clients, traffic_); });
  }
  static std::string refusal(const std::function<void()>& work) { return error_of(work); }

  volatile std::sig_atomic_t stop_now_ = 0;
  const fs::path folder_ = fs::path(testing::TempDir()) / concat("backend-", ::getpid());
  FakeTraffic traffic_;
  std::optional<NetworkBackend> backend_;
};

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

class OpenPopulation : public NetworkBackendTest {
  void tune(NetworkOptions& options) override {
    options.open = true;
    options.over_selection = 1.5;
    options.select_window_s = 0.3;
    options.min_fraction = 0.5;
    options.lease_ms = 400;
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

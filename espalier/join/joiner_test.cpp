// A client against a server that says when to come back, or has tasks that are over.
#include "espalier/join/joiner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <variant>

#include "espalier/base/error.h"
#include "espalier/join/watchers.h"
#include "espalier/rpc/server.h"

namespace espalier::join {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

class Doorman final : public rpc::Service {
 public:
  // For one Await after the other; then it is over.
  std::vector<std::variant<rpc::RetryWindow, rpc::TaskNotice>> replies;
  std::vector<rpc::Phase> reported;
  std::vector<Clock::time_point> asked;
  std::vector<std::string> addresses;
  int checkins = 0;
  std::atomic<bool> go_on = false;

  rpc::CheckInReply check_in(const rpc::Caller&, const rpc::CheckInRequest& request) override {
    ++checkins;
    rpc::CheckInReply reply;
    reply.run = 5;
    reply.config = R"({"model": {"name": "mlp", "hidden": [2]}})";
    reply.data = request.data;
    return reply;
  }
  uint64_t await(const rpc::Caller& caller, const rpc::AwaitRequest&,
                 std::function<void(rpc::AwaitReply)> answer) override {
    rpc::AwaitReply reply;
    {
      const std::lock_guard lock(mutex_);
      if (asked.size() < replies.size()) {
        std::visit([&](const auto& next) { reply.next = next; }, replies[asked.size()]);
      } else {
        reply.next = rpc::Finished{true, ""};
      }
      asked.push_back(Clock::now());
      addresses.push_back(caller.address);
    }
    answer(reply);
    return 0;
  }
  void gone(uint64_t) override {}
  std::shared_ptr<const rpc::Download> fetch(const rpc::Caller&,
                                             const rpc::FetchRequest&) override {
    throw rpc::Refusal(rpc::Refused::kMismatch, "no task");
  }
  std::unique_ptr<rpc::Upload> push(const rpc::Caller&, const rpc::PushOpen&,
                                    rpc::PushReply&) override {
    return nullptr;
  }
  rpc::ReportReply report(const rpc::Caller&, const rpc::ReportRequest& request) override {
    const std::lock_guard lock(mutex_);
    reported.push_back(request.phase);
    return {go_on, {}};
  }
  size_t reports() {
    const std::lock_guard lock(mutex_);
    return reported.size();
  }
  size_t waiters() {
    const std::lock_guard lock(mutex_);
    return asked.size();
  }

 private:
  std::mutex mutex_;
};

class JoinerTest : public testing::Test {
 protected:
  JoinerTest() {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    rpc::ServerOptions listening;
    listening.listen = "127.0.0.1:0";
    listening.federation = "garden";
    listening.credentials.insecure = true;
    server_.emplace(listening, doorman_);
  }
  ~JoinerTest() override { fs::remove_all(folder_); }

  static data::Dataset samples(std::vector<int32_t> labels = {0, 1}) {
    data::Dataset out;
    out.kind = data::Kind::kFloat;
    out.sample_shape = {3};
    out.num_classes = 2;
    for (size_t i = 0; i < 3 * labels.size(); ++i) out.floats.push_back(1);
    out.labels = std::move(labels);
    return out;
  }
  Joiner::End join(const volatile std::sig_atomic_t* stop = nullptr,
                   data::Dataset test = samples()) {
    JoinOptions options;
    options.connection.server = concat("127.0.0.1:", server_->port());
    options.connection.credentials.insecure = true;
    options.folder = folder_;
    options.say = [this](const std::string& line) { said_.push_back(line); };
    return Joiner(std::move(options), samples(), std::move(test)).run(stop);
  }

  const fs::path folder_ = fs::path(testing::TempDir()) / concat("joiner-", ::getpid());
  Doorman doorman_;
  std::optional<rpc::Server> server_;
  std::vector<std::string> said_;
};

TEST_F(JoinerTest, ComesBackWithinTheWindowAndKeepsNoConnectionMeanwhile) {
  doorman_.replies = {rpc::RetryWindow{100, 300}, rpc::RetryWindow{5000, 5200}};
  EXPECT_EQ(join(), Joiner::End::kCompleted);

  ASSERT_EQ(doorman_.asked.size(), 3U);
  const auto seconds = [&](size_t i) {
    return std::chrono::duration<double>(doorman_.asked[i + 1] - doorman_.asked[i]).count();
  };
  EXPECT_GE(seconds(0), 0.1);
  EXPECT_LT(seconds(0), 2);
  EXPECT_GE(seconds(1), 5);
  EXPECT_LT(seconds(1), 8);
  EXPECT_EQ(doorman_.addresses[0], doorman_.addresses[1]) << "a moment is waited on the line";
  EXPECT_NE(doorman_.addresses[1], doorman_.addresses[2]) << "another connection";
  EXPECT_EQ(doorman_.checkins, 1) << "the session goes on";
  EXPECT_THAT(said_, testing::Contains(testing::HasSubstr("not needed now; asks again in 6 s")));
}

TEST_F(JoinerTest, ATaskThatIsOverBeforeItIsFetchedEndsNothing) {
  rpc::TaskNotice task;
  task.bytes = 100;
  task.digest = 7;
  doorman_.replies = {task, task};
  EXPECT_EQ(join(), Joiner::End::kCompleted);
  EXPECT_EQ(doorman_.asked.size(), 3U);
  EXPECT_TRUE(doorman_.reported.empty()) << "no failure of the client's";
}

TEST_F(JoinerTest, AHeartbeatHearsThatATaskIsToBeDropped) {
  rpc::ConnectionOptions options;
  options.server = concat("127.0.0.1:", server_->port());
  options.credentials.insecure = true;
  rpc::Connection connection(options);
  for (const bool go_on : {true, false}) {
    doorman_.go_on = go_on;
    Heartbeat heartbeat(connection, {{5}, std::string(16, 's'), rpc::Phase::kTraining, 0, ""}, 10);
    const size_t before = doorman_.reports();
    while (doorman_.reports() < before + 2)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(heartbeat.wanted(), go_on);
  }
}

TEST_F(JoinerTest, AClientWithoutTestSamplesTakesPart) {
  EXPECT_EQ(join(nullptr, samples({})), Joiner::End::kCompleted);
}

TEST_F(JoinerTest, WhoIsStoppedSaysThatItLeaves) {
  volatile std::sig_atomic_t stop = 0;
  doorman_.replies = {rpc::RetryWindow{60'000, 60'000}};
  auto end = std::async(std::launch::async, [&] { return join(&stop); });
  while (doorman_.waiters() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  stop = 1;
  EXPECT_EQ(end.get(), Joiner::End::kStopped);
  EXPECT_THAT(doorman_.reported, testing::ElementsAre(rpc::Phase::kLeaving));
}

}  // namespace
}  // namespace espalier::join

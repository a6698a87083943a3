// A client against a server that only ever says when to come back.
#include "espalier/join/joiner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <mutex>

#include "espalier/base/error.h"
#include "espalier/rpc/server.h"

namespace espalier::join {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

class Doorman final : public rpc::Service {
 public:
  std::vector<rpc::RetryWindow> windows;  // for one Await after the other; then it is over
  std::vector<Clock::time_point> asked;
  std::vector<std::string> addresses;
  int checkins = 0;

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
      if (asked.size() < windows.size()) {
        reply.next = windows[asked.size()];
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
  rpc::ReportReply report(const rpc::Caller&, const rpc::ReportRequest&) override { return {}; }

 private:
  std::mutex mutex_;
};

TEST(Joiner, ComesBackWithinTheWindowAndKeepsNoConnectionMeanwhile) {
  const fs::path folder = fs::path(testing::TempDir()) / concat("joiner-", ::getpid());
  fs::remove_all(folder);
  fs::create_directories(folder);
  Doorman doorman;
  doorman.windows = {{100, 300}, {5000, 5200}};
  rpc::ServerOptions listening;
  listening.listen = "127.0.0.1:0";
  listening.federation = "garden";
  listening.credentials.insecure = true;
  rpc::Server server(listening, doorman);

  data::Dataset samples;
  samples.kind = data::Kind::kFloat;
  samples.sample_shape = {3};
  samples.num_classes = 2;
  samples.floats = {0, 1, 2, 3, 4, 5};
  samples.labels = {0, 1};
  JoinOptions options;
  options.connection.server = concat("127.0.0.1:", server.port());
  options.connection.credentials.insecure = true;
  options.folder = folder;
  std::vector<std::string> said;
  options.say = [&](const std::string& line) { said.push_back(line); };
  EXPECT_EQ(Joiner(std::move(options), samples, samples).run(nullptr), Joiner::End::kCompleted);

  ASSERT_EQ(doorman.asked.size(), 3U);
  const auto seconds = [&](size_t i) {
    return std::chrono::duration<double>(doorman.asked[i + 1] - doorman.asked[i]).count();
  };
  EXPECT_GE(seconds(0), 0.1);
  EXPECT_LT(seconds(0), 2);
  EXPECT_GE(seconds(1), 5);
  EXPECT_LT(seconds(1), 8);
  EXPECT_EQ(doorman.addresses[0], doorman.addresses[1]) << "a moment is waited on the line";
  EXPECT_NE(doorman.addresses[1], doorman.addresses[2]) << "another connection";
  EXPECT_EQ(doorman.checkins, 1) << "the session goes on";
  EXPECT_THAT(said, testing::Contains(testing::HasSubstr("not needed now; asks again in 6 s")));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace espalier::join

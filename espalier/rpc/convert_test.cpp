#include "espalier/rpc/convert.h"

#include <gtest/gtest.h>

#include <limits>

#include "espalier/rpc/refusal.h"

namespace espalier::rpc {
namespace {

const std::string kSession(kSessionBytes, 's');

// Through bytes and back.
template <class Proto, class Plain>
Plain there_and_back(const Plain& in) {
  Proto out;
  EXPECT_TRUE(out.ParseFromString(to_proto(in).SerializeAsString()));
  return from_proto(out);
}

TEST(Convert, WordsOfAPeerAreOneLineThatSteersNoTerminal) {
  const ReportRequest request{{7, 1, 2, 3, 1}, kSession, Phase::kFailed, 0, "a\x1b[2J\nb"};
  EXPECT_EQ(there_and_back<v1::ReportRequest>(request).detail, "a?[2J b");
  AwaitReply over;
  over.next = Finished{false, "x\x1b]0;y"};
  over.last_failure = "z\r";
  const AwaitReply back = there_and_back<v1::AwaitReply>(over);
  EXPECT_EQ(std::get<Finished>(back.next).reason, "x?]0;y");
  EXPECT_EQ(back.last_failure, "z ");
}

TEST(Convert, ProgressIsAShare) {
  const auto of = [](float progress) {
    const ReportRequest request{{7, 1, 2, 3, 1}, kSession, Phase::kTraining, progress, ""};
    return there_and_back<v1::ReportRequest>(request).progress;
  };
  EXPECT_EQ(of(0.25F), 0.25F);
  EXPECT_EQ(of(7), 1.0F);
  EXPECT_EQ(of(-1), 0.0F);
  EXPECT_EQ(of(std::numeric_limits<float>::quiet_NaN()), 0.0F);
}

TEST(Convert, AnAwaitReplySaysOneOfThreeThings) {
  AwaitReply task;
  task.next = TaskNotice{{7, 1, 2, 3, 1}, 1000, ~uint64_t{0}, 4, 5, 6};
  task.committed_version = 8;
  AwaitReply back = there_and_back<v1::AwaitReply>(task);
  const auto& notice = std::get<TaskNotice>(back.next);
  EXPECT_EQ(notice.ticket, (Ticket{7, 1, 2, 3, 1}));
  EXPECT_EQ(notice.digest, ~uint64_t{0});
  EXPECT_EQ(notice.max_update_bytes, 6U);
  EXPECT_EQ(back.committed_version, 8U);
  AwaitReply finished;
  finished.next = Finished{true, "done"};
  EXPECT_EQ(std::get<Finished>(there_and_back<v1::AwaitReply>(finished).next).reason, "done");
  AwaitReply later;
  later.next = RetryWindow{10, 20};
  EXPECT_EQ(std::get<RetryWindow>(there_and_back<v1::AwaitReply>(later).next).max_ms, 20U);
  // Nothing at all is a retry at once, and a window is never upside down.
  EXPECT_TRUE(std::holds_alternative<RetryWindow>(from_proto(v1::AwaitReply()).next));
  later.next = RetryWindow{10, 3};
  EXPECT_EQ(std::get<RetryWindow>(there_and_back<v1::AwaitReply>(later).next).max_ms, 10U);
}

TEST(Convert, CheckInKeepsEverything) {
  CheckInRequest in;
  in.version = {1, 4, 2, "0.1.0"};
  in.device = {"phone", 1 << 30, 2, "avx2", "onednn", {"quantize"}, {"fedavg"}};
  in.data = {0, {3, 32, 32}, 10, 0, {0.5F}, {0.25F}, {1.0F}};
  in.num_samples = 600;
  in.state_versions = {1, 3};
  in.session = kSession;
  const CheckInRequest out = there_and_back<v1::CheckInRequest>(in);
  EXPECT_EQ(out.version.task_format, 4U);
  EXPECT_EQ(out.device.strategies, in.device.strategies);
  EXPECT_EQ(out.data.sample_shape, in.data.sample_shape);
  EXPECT_EQ(out.data.fill, in.data.fill);
  EXPECT_EQ(out.num_samples, 600U);
  EXPECT_EQ(out.state_versions, in.state_versions);
}

TEST(Convert, AbsurdSizesAreRefused) {
  CheckInRequest in;
  in.session = kSession;
  in.version.release.assign(kMaxString + 1, 'x');
  EXPECT_THROW(from_proto(to_proto(in)), Refusal);
  in.version.release.clear();
  EXPECT_NO_THROW(from_proto(to_proto(in)));
  in.state_versions.assign(65, 1);
  EXPECT_THROW(from_proto(to_proto(in)), Refusal);
  in.state_versions.clear();
  in.session = "short";
  EXPECT_THROW(from_proto(to_proto(in)), Refusal);
  v1::ReportRequest report;
  report.set_session(kSession);
  report.set_phase(static_cast<v1::Phase>(17));
  EXPECT_THROW(from_proto(report), Refusal);
}

// A path in an error may be any bytes; a message may not.
TEST(Convert, TextsAreCutBetweenCharactersAndAreUtf8) {
  PushReply reply;
  reply.detail = std::string(kMaxString - 1, 'a') + "é";
  EXPECT_EQ(there_and_back<v1::PushReply>(reply).detail, std::string(kMaxString - 1, 'a'));
  reply.detail = "caf\xc3\xa9 \xff\xc3";
  EXPECT_EQ(there_and_back<v1::PushReply>(reply).detail, "café ??");
}

}  // namespace
}  // namespace espalier::rpc

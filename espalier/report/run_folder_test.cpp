#include "espalier/report/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "espalier/base/file.h"
#include "espalier/base/test_error.h"
#include "espalier/report/test_run.h"

namespace espalier::report {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(RunFolder, CreatesAndRefusesWhatItWouldOverwrite) {
  const TemporaryFolder base;
  const fs::path path = base.path() / "a" / "run";
  { const RunFolder unused = RunFolder::create(path); }
  EXPECT_FALSE(fs::exists(base.path() / "a")) << "a run that never began leaves nothing";
  fs::create_directories(path);
  { const RunFolder unused = RunFolder::create(path); }
  EXPECT_TRUE(fs::is_empty(path)) << "an empty folder is fine, and stays the user's";
  const RunFolder folder = RunFolder::create(path);
  EXPECT_EQ(folder.name(), "run");
  EXPECT_FALSE(RunFolder::is_run(path));

  folder.write_config("rounds = 3\n");
  EXPECT_TRUE(RunFolder::is_run(path));
  EXPECT_THAT(error_of([&] { RunFolder::create(path); }), HasSubstr("--resume"));
  EXPECT_EQ(RunFolder::open(path / "").name(), "run");

  fs::create_directories(base.path() / "photos");
  write_text_file_atomic(base.path() / "photos" / "cat.txt", "meow");
  EXPECT_THAT(error_of([&] { RunFolder::create(base.path() / "photos"); }), HasSubstr("not a run"));
  EXPECT_THAT(error_of([&] { RunFolder::open(base.path() / "photos"); }),
              HasSubstr("no config.toml"));
  EXPECT_THAT(error_of([&] { RunFolder::create(base.path() / "photos" / "cat.txt"); }),
              HasSubstr("got a file"));
  EXPECT_THAT(error_of([&] { RunFolder::open(base.path() / "nowhere"); }),
              HasSubstr("no run folder"));
}

TEST(RunFolder, HasOneWriterAndSaysWho) {
  const TemporaryFolder base;
  const fs::path path = base.path() / "run";
  {
    const RunFolder writer = RunFolder::create(path);
    EXPECT_THAT(error_of([&] { RunFolder::create(path); }),
                HasSubstr(concat("process ", ::getpid(), " on ")));
    EXPECT_EQ(RunFolder::create_beside(path).path(), path.string() + "-2");
    writer.write_config("");
    EXPECT_THAT(error_of([&] { RunFolder::resume(path); }), HasSubstr("being written by process"));
    EXPECT_NO_THROW(RunFolder::open(path)) << "others may read";
    write_text_file_atomic(path / "model.safetensors.4711.tmp", "half");
  }
  const RunFolder next = RunFolder::resume(path);
  EXPECT_FALSE(fs::exists(path / "model.safetensors.4711.tmp"));
}

TEST(RunFolder, MetricsAreAppendedWholeAndSurviveATornLine) {
  const TemporaryFolder base;
  {
    RunFolder folder = RunFolder::create(base.path() / "run");
    folder.write_config("");
    EXPECT_TRUE(folder.metrics().empty());
    for (int round = 1; round <= 3; ++round)
      folder.append_metrics({{"round", round}, {"loss", 1.0 / round}});
    EXPECT_EQ(read_text_file(folder.metrics_path()).find("{\"round\":1,\"loss\":1.0}\n"), 0u);
  }
  RunFolder folder = RunFolder::resume(base.path() / "run");
  std::ofstream(folder.metrics_path(), std::ios::app) << "{\"round\":4,\"lo";
  EXPECT_EQ(read_metrics(folder.metrics_path()).size(), 3u);
  folder.append_metrics({{"round", 4}});
  const auto lines = folder.metrics();
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[3]["round"], 4);
  EXPECT_EQ(*number_in(lines[1], "loss"), 0.5);
  EXPECT_FALSE(number_in(lines[3], "loss"));
}

TEST(RunFolder, TruncatingDropsLaterRoundsAndTheTornLine) {
  const TemporaryFolder base;
  RunFolder folder = RunFolder::create(base.path() / "run");
  EXPECT_EQ(folder.truncate_metrics(7), 0u);
  for (int round = 1; round <= 5; ++round) folder.append_metrics({{"round", round}});
  std::ofstream(folder.metrics_path(), std::ios::app) << "{\"rou";
  EXPECT_EQ(folder.truncate_metrics(3), 3u);
  EXPECT_EQ(read_text_file(folder.metrics_path()), "{\"round\":1}\n{\"round\":2}\n{\"round\":3}\n");
  folder.append_metrics({{"round", 4}});
  EXPECT_EQ(folder.metrics().size(), 4u);
  EXPECT_EQ(folder.truncate_metrics(99), 4u);
}

TEST(RunFolder, AWrongLineInTheMiddleIsAnErrorWithItsNumber) {
  const TemporaryFolder base;
  const fs::path path = base.path() / "metrics.jsonl";
  write_text_file_atomic(path, "{\"round\":1}\nnonsense\n{\"round\":3}\n");
  EXPECT_THAT(error_of([&] { read_metrics(path); }), HasSubstr("line 2"));
  write_text_file_atomic(path, "[1]\n{\"round\":3}\n");
  EXPECT_THAT(error_of([&] { read_metrics(path); }), HasSubstr("line 1"));
}

// A limit on the file's size stands in for a full disk: the write stops in the middle of the line.
TEST(RunFolder, AFullDiskKeepsTheWholeLinesAndSaysWhatToDo) {
  const TemporaryFolder base;
  RunFolder folder = RunFolder::create(base.path() / "run");
  folder.append_metrics({{"round", 1}});
  const std::string whole = read_text_file(folder.metrics_path());

  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit = before;
  limit.rlim_cur = whole.size() + 5;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string message = error_of([&] { folder.append_metrics({{"round", 2}}); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);

  EXPECT_THAT(message, HasSubstr("--resume"));
  EXPECT_EQ(read_text_file(folder.metrics_path()), whole);
  folder.append_metrics({{"round", 2}});
  EXPECT_EQ(folder.metrics().size(), 2u);
}

TEST(RunFolder, SummaryAndClientsRoundTrip) {
  const TemporaryFolder base;
  const RunFolder folder = RunFolder::create(base.path() / "run");
  EXPECT_FALSE(folder.summary());
  EXPECT_FALSE(folder.clients());
  folder.write_summary({{"strategy", "fedavg"}, {"final_accuracy", 0.5}});
  EXPECT_EQ((*folder.summary())["strategy"], "fedavg");

  ClientHistogram histogram{2, 5000, {}};
  for (uint64_t id = 0; id < 300; ++id) histogram.clients.push_back({id, id + 1, {id, 1}});
  folder.write_clients(histogram);
  const ClientHistogram read = *folder.clients();
  EXPECT_EQ(read.num_clients, 5000u);
  ASSERT_EQ(read.clients.size(), kMaxStoredClients);
  EXPECT_EQ(read.clients[7].labels, (std::vector<uint64_t>{7, 1}));

  write_text_file_atomic(folder.clients_path(),
                         R"({"classes":3,"clients":[{"id":0,"samples":1,"labels":[1]}]})");
  EXPECT_THAT(error_of([&] { folder.clients(); }), HasSubstr("expected 3 label counts"));
  write_text_file_atomic(folder.clients_path(), R"({"classes":3,"clients":[7]})");
  EXPECT_THROW(folder.clients(), Error);
  write_text_file_atomic(folder.summary_path(), "[]");
  EXPECT_THROW(folder.summary(), Error);
}

}  // namespace
}  // namespace espalier::report

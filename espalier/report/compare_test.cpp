#include "espalier/report/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "espalier/base/file.h"
#include "espalier/report/human.h"
#include "espalier/report/test_run.h"
#include "espalier/report/text_table.h"

namespace espalier::report {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(TextTable, AlignsByCodePoints) {
  EXPECT_EQ(text_table({{"run", "acc"}, {"é", "1"}, {"long name", "90%"}}),
            "run        acc\né            1\nlong name  90%\n");
}

TEST(TextTable, SparklineUsesOneScaleAndEndsWithTheLastValue) {
  EXPECT_EQ(sparkline({0, 1, 2, 3, 4, 5, 6, 7}, 8, 0, 7), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(sparkline({0, 0, 0, 7}, 2, 0, 7), "▁█");
  EXPECT_EQ(sparkline({5, 5}, 8, 5, 5), "▅▅");
  EXPECT_EQ(sparkline({0, std::numeric_limits<double>::quiet_NaN(), 7}, 8, 0, 7), "▁ █");
  EXPECT_EQ(sparkline({}, 8, 0, 1), "");
}

TEST(TextTable, SummaryBlock) {
  const Json summary{{"final_accuracy", 0.8123},
                     {"best_accuracy", 0.82},
                     {"final_loss", 0.5},
                     {"rounds_completed", 20},
                     {"client_updates", 200},
                     {"clients_failed", 2},
                     {"bytes_down_total", 2e9},
                     {"bytes_up_total", 1e9},
                     {"bytes_down_per_client_round", 1e7},
                     {"bytes_up_per_client_round", 5e6},
                     {"dense_bytes_per_client_round", 1e7},
                     {"wall_seconds", 50},
                     {"client_updates_per_second", 4}};
  EXPECT_EQ(summary_block(summary, "runs/a/report.html"),
            "accuracy    81.23% (best 82.00%), loss 0.5000\n"
            "rounds      20, 200 client updates, 2 failed\n"
            "bytes down  2.00 GB, 10.0 MB per client and round\n"
            "bytes up    1.00 GB, 5.00 MB per client and round (2.00x less than fp32)\n"
            "time        50.0 s, 4 client updates/s\n"
            "report      runs/a/report.html\n");
  EXPECT_EQ(summary_block(Json::object(), ""), "");
  // Accuracy that hides a class.
  const Json rare = {{"final_accuracy", 0.97},
                     {"final_balanced_accuracy", 0.5},
                     {"final_never_found", Json::array({1})},
                     {"final_num_never_found", 1}};
  EXPECT_EQ(summary_block(rare, ""),
            "accuracy           97.00%\nbalanced accuracy  50.00%, class 1 is never found\n");
  Json many = rare;
  many["final_never_found"] = Json::array({1, 3, 4, 6, 7, 8});
  many["final_num_never_found"] = 30;
  EXPECT_NE(summary_block(many, "").find("30 classes are never found (1, 3, 4, 6, 7, …)"),
            std::string::npos);
  const Json even = {{"final_accuracy", 0.8}, {"final_balanced_accuracy", 0.805}};
  EXPECT_EQ(summary_block(even, ""), "accuracy  80.00%\n");
}

TEST(TextTable, SummaryBlockOfExplorationsAndTargets) {
  Json summary = {{"exploration_bytes_down", 2'000'000},
                  {"exploration_bytes_up", 1'000'000},
                  {"exploration_macs", 5e9},
                  {"target_accuracy", 0.8},
                  {"target_round", 7},
                  {"target_bytes_down", 300'000},
                  {"target_bytes_up", 100'000},
                  {"target_macs", 2e9}};
  const std::string reached = summary_block(summary, "");
  EXPECT_NE(reached.find("2.00 MB down, 1.00 MB up, 5.00 G MACs (in the totals)"),
            std::string::npos)
      << reached;
  summary["evaluation_bytes_down"] = 4'000'000;
  summary["evaluation_bytes_up"] = 1'000;
  summary["evaluation_macs"] = 6e9;
  const std::string asked = summary_block(summary, "");
  EXPECT_NE(asked.find("4.00 MB down, 1.00 KB up, 6.00 G MACs at clients (in the totals)"),
            std::string::npos)
      << asked;
  EXPECT_NE(reached.find("80.00% after round 7, 400 KB, 2.00 G MACs"), std::string::npos)
      << reached;
  summary["target_round"] = nullptr;
  EXPECT_NE(summary_block(summary, "").find("80.00% not reached"), std::string::npos);
}

TEST(RunData, AnUnfinishedRunIsSummarizedFromItsMetrics) {
  const TemporaryFolder base;
  const RunFolder folder = write_test_run(base.path() / "run", {.rounds = 10});
  const RunData finished = load_run(folder.path());
  std::filesystem::remove(folder.summary_path());
  const RunData unfinished = load_run(folder.path());
  EXPECT_TRUE(finished.finished);
  EXPECT_FALSE(unfinished.finished);
  EXPECT_EQ(text_in(unfinished.summary, "strategy"), "fedavg");
  for (const char* key : {"final_accuracy", "best_accuracy", "final_loss", "bytes_down_total",
                          "bytes_up_per_client_round", "client_macs_total", "wall_seconds",
                          "client_updates", "client_updates_per_second"}) {
    EXPECT_NEAR(*number_in(unfinished.summary, key) / *number_in(finished.summary, key), 1, 1e-9)
        << key;
  }
}

TEST(RunData, FoldersWithOneNameAreToldApart) {
  const TemporaryFolder base;
  write_test_run(base.path() / "a" / "run", {.rounds = 1});
  write_test_run(base.path() / "b" / "run", {.rounds = 1});
  const auto runs = load_runs(
      {base.path() / "a" / "run", base.path() / "b" / "run" / "", base.path() / "b" / "run"});
  EXPECT_EQ(runs[0].name, "a/run");
  EXPECT_EQ(runs[1].name, "b/run");
  EXPECT_EQ(runs[2].name, "b/run (2)");
}

TEST(Compare, TextAndJsonShowRatiosAgainstTheFirst) {
  const TemporaryFolder base;
  write_test_run(base.path() / "fedavg", {.rounds = 20});
  write_test_run(
      base.path() / "small",
      {.strategy = "fedprox", .rounds = 20, .up_ratio = 0.25, .down_ratio = 0.25, .ceiling = 0.8});
  const auto runs = load_runs({base.path() / "fedavg", base.path() / "small"});
  const std::string text = compare_text(runs);
  EXPECT_THAT(text, HasSubstr("1.00x"));
  EXPECT_THAT(text, HasSubstr("0.25x"));
  EXPECT_THAT(text, HasSubstr("fedprox"));
  EXPECT_THAT(text, HasSubstr("6.65 MB"));
  EXPECT_THAT(text, Not(HasSubstr("unfinished")));

  const Json json = compare_json(runs);
  EXPECT_NEAR(json["runs"][1]["bytes_ratio_to_first"].get<double>(), 0.25, 1e-6);
  EXPECT_EQ(json["runs"][0]["run"], "fedavg");
  EXPECT_EQ(json["runs"][1]["strategy"], "fedprox");
}

TEST(Compare, ARunWithoutRoundsIsShownWithDashes) {
  const TemporaryFolder base;
  const RunFolder folder = RunFolder::create(base.path() / "new");
  folder.write_config("seed = 1\n");
  const auto runs = load_runs({folder.path()});
  EXPECT_THAT(compare_text(runs), HasSubstr("new (unfinished)"));
  EXPECT_TRUE(compare_json(runs)["runs"][0]["bytes_ratio_to_first"].is_null());
}

TEST(Compare, TheBestValueIsMarkedOnlyWhereValuesDiffer) {
  const TemporaryFolder base;
  write_test_run(base.path() / "a", {.rounds = 5});
  write_test_run(base.path() / "b", {.rounds = 5, .up_ratio = 0.5});
  const auto runs = load_runs({base.path() / "a", base.path() / "b"});
  for (const Figure& figure : key_figures()) {
    const auto best = best_run(runs, figure);
    if (figure.key == "bytes_up_total") {
      EXPECT_EQ(best, std::optional<size_t>(1));
    }
    if (figure.key == "bytes_down_total" || figure.key == "rounds_completed") {
      EXPECT_FALSE(best);
    }
  }
}

}  // namespace
}  // namespace espalier::report

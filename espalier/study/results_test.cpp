#include "espalier/study/results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "espalier/study/columns.h"
#include "espalier/study/page.h"
#include "espalier/study/study_json.h"
#include "espalier/study/test_study.h"

namespace espalier::study {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// A run whose evaluations are made up: accuracies at rounds 2, 4, …, so many bytes per round.
CellResult made_up(const std::vector<double>& accuracies, double bytes, double macs = 100) {
  report::RunData run;
  run.name = "made-up";
  for (size_t i = 0; i < accuracies.size(); ++i) {
    const double round = 2 * static_cast<double>(i + 1);
    run.metrics.push_back({{"round", round - 1}, {"client_accuracy", 0.9}});
    run.metrics.push_back({{"round", round},
                           {"accuracy", accuracies[i]},
                           {"client_accuracy", accuracies[i] / 2},
                           {"bytes_down_total", round * bytes},
                           {"bytes_up_total", round * bytes / 2},
                           {"macs_total", round * macs}});
  }
  const double rounds = 2 * static_cast<double>(accuracies.size());
  run.summary = {{"rounds_completed", rounds},
                 {"bytes_down_total", rounds * bytes},
                 {"bytes_up_total", rounds * bytes / 2},
                 {"client_macs_total", rounds * macs},
                 {"client_updates", 10},
                 {"bytes_down_per_client_round", bytes},
                 {"dense_bytes_per_client_round", 4000},
                 {"clients_failed", 0},
                 {"exploration_macs", 15},
                 {"evaluation_macs", 5},
                 {"bytes_up_per_client_round", bytes / 2},
                 {"final_loss", 2 * accuracies.back()},
                 {"wall_seconds", bytes / 500},
                 {"client_train_seconds", bytes / 100},
                 {"peak_rss_bytes", 4 * bytes}};
  return read_result(run, "accuracy");
}

// Two variants with three seeds: the second is two points better on two common seeds and lacks one.
struct Example {
  StudyFiles files;
  Study study = files.read(R"(
seeds = [1, 2, 3]
targets = [0.5, 0.62]
columns = ["accuracy", "difference", "bytes", "down", "update_macs", "curve", "targets", "metrics.client_accuracy"]
[[variant]]
name = "base|line"
[[variant]]
name = "better"
set = {train.lr = 0.2}
)");
  Results results;

  Example() {
    results.variants.resize(2);
    results.variants[0].cells[1] = made_up({0.3, 0.5, 0.60}, 1000);
    results.variants[0].cells[2] = made_up({0.3, 0.4, 0.50}, 1000);
    results.variants[0].cells[3] = made_up({0.3, 0.4, 0.70}, 1000);
    results.variants[1].cells[1] = made_up({0.4, 0.6, 0.63}, 250);
    results.variants[1].cells[3] = made_up({0.4, 0.5, 0.71}, 250);
  }
};

TEST(Results, FiguresOfACell) {
  const CellResult cell = made_up({0.3, 0.7, 0.6}, 1000);
  EXPECT_DOUBLE_EQ(*figure_of(cell, "accuracy"), 0.6);
  EXPECT_DOUBLE_EQ(*figure_of(cell, "best"), 0.7);
  EXPECT_NEAR(*figure_of(cell, "last5"), 1.6 / 3, 1e-12);
  EXPECT_DOUBLE_EQ(*figure_of(cell, "bytes"), 9000);
  EXPECT_DOUBLE_EQ(*figure_of(cell, "update_macs"), 58) << "explorations and evaluations apart";
  EXPECT_DOUBLE_EQ(*figure_of(cell, "metrics.client_accuracy"), 0.3);
  EXPECT_DOUBLE_EQ(*figure_of(cell, "summary.client_updates"), 10);
  EXPECT_FALSE(figure_of(cell, "summary.nothing"));
  EXPECT_EQ(reaches(cell, 0.5)->round, 4);
  EXPECT_EQ(reaches(cell, 0.7)->bytes_up, 2000);
  EXPECT_EQ(reaches(cell, 0.71), nullptr);
}

TEST(Results, AnotherKeyAsAccuracyCountsAtEvaluationsAlone) {
  report::RunData run;
  run.metrics = {{{"round", 1}, {"client_accuracy", 0.9}},
                 {{"round", 2}, {"client_accuracy", 0.2}, {"accuracy", 0.5}}};
  const CellResult cell = read_result(run, "client_accuracy");
  ASSERT_EQ(cell.curve.size(), 1u);
  EXPECT_EQ(cell.curve[0].accuracy, 0.2);
}

TEST(Results, TableByHand) {
  const Example example;
  const auto rows = table_of(example.study, example.results);
  EXPECT_THAT(rows[0],
              ElementsAre("variant", "accuracy, %", "difference to base|line, points [95 %]",
                          "all bytes of a run", "down per client and round", "MACs per update",
                          "accuracy at each evaluation, %", "rounds, bytes to 50 %",
                          "rounds, bytes to 62 %", "client_accuracy, %", "seeds"));
  // 60, 50, 70: sd 10. 50 % after rounds 4, 6, 6 of 1,500 bytes each; 62 % by one seed after 6.
  EXPECT_THAT(rows[1], ElementsAre("base|line", "60.00 ± 10.00", "–", "9.00 KB (1.00×)",
                                   "1.00 KB (4.0×)", "58 (1.00×)", "30.0/43.3/60.0",
                                   "5.33, 8.00 KB", "6, 9.00 KB (1 of 3)", "30.00 ± 5.00", "3"));
  // 63 and 71: mean 67, sd 8/√2. Differences 3 and 1: mean 2, sd √2, ± 12.7062·√2/√2.
  EXPECT_THAT(rows[2],
              ElementsAre("better", "67.00 ± 5.66", "+2.00 [-10.71, +14.71] (2 pairs)",
                          "2.25 KB (0.25×)", "250 B (16.0×)", "58 (1.00×)", "40.0/55.0/67.0",
                          "4, 1.50 KB", "6, 2.25 KB", "33.50 ± 2.83", "2 of 3"));
  EXPECT_THAT(table_markdown(example.study, example.results), HasSubstr("| base\\|line | 60.00"));
}

TEST(Results, OtherColumnsAndRatiosByHand) {
  Example example;
  example.study.options.columns = {"best", "last5",  "loss",        "up",    "macs",
                                   "time", "memory", "update_time", "rounds"};
  auto& better = example.results.variants[1];
  better.cells[1] = made_up({0.4, 0.7, 0.6}, 250, 50);
  better.cells[3] = made_up({0.4, 0.5, 0.6}, 250, 50);
  const auto rows = table_of(example.study, example.results);
  // best 70 and 60; mean of 40 70 60 and of 40 50 60; a loss of twice .6. Six rounds of 50 products
  // where the baseline has 100; 250 bytes where it has 1,000, and times and memory with them.
  EXPECT_THAT(rows[2], ElementsAre("better", "65.00 ± 7.07", "53.33 ± 4.71", "1.2000",
                                   "125 B (32.0×)", "300 (0.50×)", "500 ms (0.25×)",
                                   "1.00 KB (0.25×)", "250 ms (0.25×)", "6", "2 of 3"));
}

TEST(Results, NotesSayWhatAReaderMustKnow) {
  Example example;
  example.study.options.columns = {"accuracy", "metrics.client_acuracy", "summary.client_updates"};
  const auto cells = cells_of(example.study, "0123456789abcdef");
  std::vector<Found> found(cells.size());
  const auto run = [&](size_t c, const char* version, const char* build, const char* instructions) {
    found[c].state = CellState::kDone;
    found[c].version = version;
    found[c].build = build;
    found[c].folder = example.files.path() / "runs" / cells[c].name;
    const auto write = [&](const char* name, const std::string& text) {
      example.files.write("runs/" + cells[c].name + "/" + name, text);
    };
    write("config.toml", to_toml(cells[c].config));
    write("metrics.jsonl", R"({"round": 1, "accuracy": 0.5, "client_accuracy": 0.25})"
                           "\n");
    write("summary.json",
          concat(R"({"rounds_completed": 4, "client_updates": 8, "instructions": ")", instructions,
                 "\"}"));
  };
  const auto notes = [&] { return read_results(example.study, cells, found, {}, "b1").notes; };
  run(0, "1.0+a", "b1", "avx2");
  run(1, "1.0+b", "b1", "avx2");
  EXPECT_THAT(notes(),
              ElementsAre("base|line: seeds 2, 3 not finished", "better: seeds 2, 3 not finished",
                          "no cell has a number 'metrics.client_acuracy', a column of the table; "
                          "did you mean 'metrics.client_accuracy'?"))
      << "commits of one build are no news";
  run(1, "1.0+b", "b2", "avx512");
  EXPECT_THAT(notes(), Contains("cells were run by 1.0+a (build b1), 1.0+b (build b2); "
                                "this is build b1"));
  EXPECT_THAT(notes(), Contains(HasSubstr("vector instructions (avx2, avx512)")));
  run(0, "1.0+b", "b2", "avx512");
  EXPECT_THAT(notes(), Contains("cells were run by 1.0+b (build b2); this is build b1"));
}

TEST(Results, JsonSaysTheSame) {
  const Example example;
  const auto cells = cells_of(example.study, "0123456789abcdef");
  const std::vector<Found> found(cells.size());
  const Json json = study_json(example.study, cells, found, example.results);
  const Json& better = json["variants"][1];
  EXPECT_NEAR(better["difference"]["mean"].get<double>(), 0.02, 1e-12);
  EXPECT_NEAR(better["difference"]["low"].get<double>(), 0.02 - 0.127062, 1e-6);
  EXPECT_EQ(better["difference"]["n"], 2);
  EXPECT_DOUBLE_EQ(better["figures"]["bytes"]["ratio"].get<double>(), 0.25);
  EXPECT_EQ(better["figures"]["accuracy"]["by_seed"]["3"], 0.71);
  EXPECT_EQ(json["variants"][0]["targets"][1]["reached"], 1);
  EXPECT_EQ(json["variants"][0]["targets"][1]["of"], 3);
  EXPECT_TRUE(json["variants"][0]["difference"].is_null());
  EXPECT_EQ(json["pareto"], Json({"better"})) << "cheaper and better";
}

TEST(Results, NobodyReachedIt) {
  Example example;
  example.study.options.targets = {0.99};
  const auto rows = table_of(example.study, example.results);
  EXPECT_EQ(rows[2][7], "not reached (0 of 2)");
  // Who was never evaluated did not fail to reach it.
  for (auto& [seed, cell] : example.results.variants[1].cells) cell.curve.clear();
  EXPECT_EQ(table_of(example.study, example.results)[2][7], "–");
}

TEST(Results, PageIsWholeAndKeepsPathsAndScriptsOut) {
  Example example;
  example.study.variants[1].name = "</script><b>x";
  example.study.variants[1].set.push_back({"data.root", "/home/somebody/data"});
  const std::string html = render_page(example.study, std::vector<Found>(6), example.results);
  EXPECT_THAT(html, Not(HasSubstr("</script><b>")));
  EXPECT_THAT(html, Not(HasSubstr("/home/somebody")));
  EXPECT_THAT(html, HasSubstr("&lt;/script&gt;"));
  EXPECT_THAT(html, HasSubstr("67.00 ± 5.66"));
  EXPECT_THAT(html, HasSubstr("1 of 3"));
}

}  // namespace
}  // namespace espalier::study

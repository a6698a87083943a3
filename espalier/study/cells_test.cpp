#include "espalier/study/cells.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "espalier/base/config.h"
#include "espalier/report/run_folder.h"
#include "espalier/study/test_study.h"

namespace espalier::study {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr const char* kBuild = "0123456789abcdef";
constexpr const char* kTwo = R"(
seeds = [1, 2]
[[variant]]
name = "FedAvg, float32"
[[variant]]
name = "slower"
set = {train.lr = 0.05}
)";

// A run of a cell as far as recognizing it goes.
void write_run(const Cell& cell, const fs::path& folder, uint64_t rounds,
               const std::string& build = kBuild) {
  auto run = report::RunFolder::create(folder);
  Json config = cell.config;
  config["build"] = build;
  run.write_config(to_toml(config));
  for (uint64_t round = 1; round <= rounds; ++round)
    run.append_metrics({{"round", round}, {"wall_seconds", 2 * static_cast<double>(round)}});
  if (rounds == cell.rounds) run.write_summary({{"rounds_completed", rounds}});
}

TEST(Cells, OnePerVariantAndSeed) {
  const StudyFiles files;
  const auto cells = cells_of(files.read(kTwo), kBuild);
  ASSERT_EQ(cells.size(), 4u);
  EXPECT_EQ(cells[1].label, "slower, seed 1");
  EXPECT_EQ(cells[2].label, "FedAvg, float32, seed 2");
  EXPECT_THAT(cells[2].name, testing::MatchesRegex("fedavg-float32-seed2-[0-9a-f]+-012345"));
  EXPECT_EQ(cells[0].rounds, 4u);
}

TEST(Cells, IdentityIsTheConfigurationAndNothingElse) {
  const StudyFiles files;
  const auto cells = cells_of(files.read(kTwo), kBuild);
  const auto again = cells_of(files.read(kTwo), "fedcba9876543210");
  EXPECT_EQ(cells[0].identity, again[0].identity) << "the build stands beside it";
  EXPECT_NE(cells[0].identity, cells[1].identity);
  EXPECT_NE(cells[0].identity, cells[2].identity);
  // A default that is written out changes nothing, another value does.
  const auto spelled = cells_of(files.read(std::string(kTwo) + "[set]\neval_every = 1\n"), kBuild);
  EXPECT_EQ(spelled[0].identity, cells[0].identity);
  const auto changed = cells_of(files.read(std::string(kTwo) + "[set]\neval_every = 2\n"), kBuild);
  EXPECT_NE(changed[0].identity, cells[0].identity);
}

TEST(Cells, FilesCountByTheirContents) {
  const StudyFiles files;
  files.write("a.safetensors", "one");
  files.write("b.safetensors", "one");
  const auto cell = [&](const std::string& name) {
    return cells_of(files.read("[set]\nmodel.init = \"" + (files.path() / name).string() + "\"\n"),
                    kBuild)[0];
  };
  const Cell first = cell("a.safetensors");
  EXPECT_EQ(cell("b.safetensors").identity, first.identity);
  files.write("b.safetensors", "two");
  EXPECT_NE(cell("b.safetensors").identity, first.identity);
  // The copy that a run keeps stands for a file that is gone.
  files.write("inputs/model.init", "one");
  fs::remove(files.path() / "a.safetensors");
  EXPECT_EQ(identity_of(first.config, files.path() / "inputs"), first.identity);
}

TEST(Cells, FoundByWhatIsInThem) {
  const StudyFiles files;
  const auto cells = cells_of(files.read(kTwo), kBuild);
  const fs::path folder = files.path() / "out", inside = folder / "cells";
  write_run(cells[0], inside / cells[0].name, 4);
  write_run(cells[1], inside / "of another name", 3);
  const auto found = find_cells(cells, folder, kBuild, false);
  EXPECT_EQ(found[0].state, CellState::kDone);
  EXPECT_EQ(found[1].state, CellState::kBegun);
  EXPECT_EQ(found[1].rounds_done, 3u);
  EXPECT_EQ(found[1].wall_seconds, 6);
  EXPECT_EQ(found[1].folder, inside / "of another name");
  EXPECT_EQ(found[2].state, CellState::kNew);
  EXPECT_EQ(found[2].why, "");

  // A variant under a new name keeps its runs.
  std::string renamed = kTwo;
  renamed.replace(renamed.find("FedAvg, float32"), 15, "plain");
  EXPECT_EQ(find_cells(cells_of(files.read(renamed), kBuild), folder, kBuild, false)[0].state,
            CellState::kDone);
}

// What the table shows is in metrics.jsonl: one that lost rounds is not taken for finished.
TEST(Cells, AFinishedRunThatLostRoundsIsRunAnew) {
  const StudyFiles files;
  const auto cells = cells_of(files.read(kTwo), kBuild);
  const fs::path folder = files.path() / "out", inside = folder / "cells";
  const auto look = [&] { return find_cells({cells[0]}, folder, kBuild, true)[0]; };
  const fs::path run = inside / cells[0].name, metrics = run / "metrics.jsonl",
                 summary = run / "summary.json";
  write_run(cells[0], run, 4);
  EXPECT_EQ(look().state, CellState::kDone);
  const std::string whole = read_text_file(metrics), end = read_text_file(summary);
  const size_t three = whole.rfind('\n', whole.size() - 2) + 1;
  const auto lost = [&](const fs::path& file, const std::string& text) {
    write_text_file_atomic(file, text);
    const Found found = look();
    EXPECT_EQ(found.state, CellState::kNew) << text;
    EXPECT_EQ(found.folder, inside / (cells[0].name + "-2"));
    EXPECT_THAT(found.why, AllOf(HasSubstr("lacks rounds"), HasSubstr(cells[0].name)));
  };
  lost(metrics, whole.substr(0, three));
  lost(metrics, "");
  lost(metrics, whole.substr(0, three + 5) + "\n" + whole.substr(three));
  write_text_file_atomic(metrics, whole);
  lost(summary, end.substr(0, end.size() / 2));
  // The new one counts, whatever the old one is.
  write_run(cells[0], inside / (cells[0].name + "-2"), 4);
  EXPECT_EQ(look().state, CellState::kDone);
}

// Real data: a run writes down in which of the usual places it has found them.
TEST(Cells, CountWhereverTheirDataWereFoundUnlessTheStudySaysWhere) {
  const StudyFiles files;
  const std::string real = std::string(kTwo) + "[set]\ndata.name = \"mnist\"\n";
  const auto cells = cells_of(files.read(real), kBuild);
  const fs::path folder = files.path() / "out";
  for (Cell cell : cells) {
    cell.config["data"]["root"] = "/data/one";
    write_run(cell, folder / "cells" / cell.name, 4);
  }
  for (const Found& one : find_cells(cells, folder, kBuild, false))
    EXPECT_EQ(one.state, CellState::kDone) << one.why;
  const auto at = [&](const std::string& root) {
    const std::string text = real + "data.root = \"" + root + "\"\n";
    return find_cells(cells_of(files.read(text), kBuild), folder, kBuild, false)[0];
  };
  EXPECT_EQ(at("/data/one").state, CellState::kDone);
  EXPECT_EQ(at("/data/two").state, CellState::kNew);
  EXPECT_THAT(at("/data/two").why, HasSubstr("data.root"));
}

TEST(Cells, ChangedConfigurationsAndBuildsAreRunAnewAndSayWhy) {
  const StudyFiles files;
  const auto cells = cells_of(files.read(kTwo), kBuild);
  const fs::path folder = files.path() / "out";
  for (const Cell& cell : cells) write_run(cell, folder / "cells" / cell.name, 4);

  const auto changed =
      cells_of(files.read(std::string(kTwo) + "[set]\nmodel.hidden = [8]\n"), kBuild);
  for (const Found& one : find_cells(changed, folder, kBuild, true)) {
    EXPECT_EQ(one.state, CellState::kNew);
    EXPECT_THAT(one.why, HasSubstr("model.hidden was [16] and is [8]"));
  }

  const auto other = cells_of(files.read(kTwo), "fedcba9876543210");
  const auto refused = find_cells(other, folder, "fedcba9876543210", false);
  EXPECT_EQ(refused[0].state, CellState::kNew);
  EXPECT_THAT(refused[0].why, AllOf(HasSubstr("another build"), HasSubstr("--any-build")));
  EXPECT_EQ(find_cells(other, folder, "fedcba9876543210", true)[0].state, CellState::kDone);
  // Half a run of another build is not gone on with.
  write_run(cells[0], folder / "cells/half", 2, "1111111111111111");
  fs::remove_all(folder / "cells" / cells[0].name);
  EXPECT_EQ(find_cells(other, folder, "fedcba9876543210", true)[0].state, CellState::kNew);
}

TEST(Cells, TheSameRunLookedAtTwiceIsOneCell) {
  const StudyFiles files;
  const auto cells = cells_of(files.read(R"(
seeds = [1]
[[variant]]
name = "server"
[[variant]]
name = "clients"
accuracy = "client_accuracy"
)"),
                              kBuild);
  ASSERT_EQ(cells.size(), 1u);
  EXPECT_THAT(cells[0].variants, testing::ElementsAre(0, 1));
}

TEST(Cells, ShardsAreTheWhole) {
  for (size_t count = 1; count <= 4; ++count) {
    for (size_t cell = 0; cell < 10; ++cell) {
      size_t owners = 0;
      for (size_t index = 1; index <= count; ++index) owners += belongs(cell, {index, count});
      EXPECT_EQ(owners, 1u);
    }
  }
  EXPECT_EQ(parse_shard("2/3").index, 2u);
  for (const char* wrong : {"", "1", "0/2", "3/2", "a/2", "1/2/3", "1/", "-1/2"})
    EXPECT_THROW(parse_shard(wrong), Error) << wrong;
}

}  // namespace
}  // namespace espalier::study

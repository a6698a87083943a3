#include "espalier/study/study_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <sstream>

#include "espalier/run/run_config.h"
#include "espalier/study/cells.h"
#include "espalier/study/test_study.h"

namespace espalier::study {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> names(const Study& study) {
  std::vector<std::string> out;
  for (const Variant& variant : study.variants) out.push_back(variant.name);
  return out;
}

Json resolved(const Study& study, size_t variant, int64_t seed = 1) {
  return run::read_run_config(variant_config(study, study.variants[variant], seed)).resolved;
}

constexpr const char* kTwo = R"(
seeds = [3, 1]
[set]
train.lr = 0.2
[[variant]]
name = "plain"
[[variant]]
name = "prox"
[variant.set]
strategy.name = "fedprox"
"strategy.mu" = 0.5
uplink = [{stage = "hadamard"}, {stage = "quantize", bits = 2}]
)";

TEST(StudyConfig, VariantsOnTopOfTheBase) {
  const StudyFiles files;
  const Study study = files.read(kTwo);
  EXPECT_EQ(study.options.name, "test");
  EXPECT_THAT(study.seeds, ElementsAre(1, 3));
  EXPECT_THAT(names(study), ElementsAre("plain", "prox"));
  const Json plain = resolved(study, 0), prox = resolved(study, 1, 3);
  EXPECT_EQ(plain["train"]["lr"], 0.2);
  EXPECT_EQ(prox["train"]["lr"], 0.2);
  EXPECT_EQ(prox["strategy"]["mu"], 0.5);
  EXPECT_EQ(prox["strategy"]["clients_per_round"], 2);
  EXPECT_EQ(prox["uplink"].size(), 2u);
  EXPECT_EQ(prox["seed"], 3);
  EXPECT_EQ(study.variants[1].baseline, 0u);
}

TEST(StudyConfig, AssignmentsCountAsTheLastOfSet) {
  const StudyFiles files;
  const Study study = files.read(kTwo, {}, {"train.lr=0.3", "rounds=7", "uplink=[]"});
  const Json plain = resolved(study, 0), prox = resolved(study, 1);
  EXPECT_EQ(plain["train"]["lr"], 0.3);
  EXPECT_EQ(prox["rounds"], 7);
  EXPECT_EQ(prox["uplink"].size(), 2u);  // its own
  EXPECT_THAT(files.error(kTwo, {"seed=2"}), HasSubstr("seeds are the study's own"));
  EXPECT_THAT(files.error(kTwo, {"train.rl=2"}), HasSubstr("unknown key in [train] 'rl'"));
}

TEST(StudyConfig, AnotherChoiceLeavesOutWhatBelongsToTheFiles) {
  const StudyFiles files;
  const Study study = files.read(R"(
[set]
strategy.name = "fedprox"
strategy.mu = 0.5
[[variant]]
name = "prox"
[[variant]]
name = "cnn without mu"
set = {strategy.name = "fedavg", model.name = "cnn"}
)");
  const Json config = resolved(study, 1);
  EXPECT_FALSE(config["strategy"].contains("mu"));
  EXPECT_EQ(config["strategy"]["clients_per_round"], 2);
  EXPECT_THAT(study.variants[1].left_out,
              ElementsAre(HasSubstr("model.hidden"), HasSubstr("strategy.mu")));
}

TEST(StudyConfig, GridIsACrossProduct) {
  const StudyFiles files;
  const Study study = files.read(R"(
baseline = "a"
[grid]
train.lr = [0.1, 0.2]
model.hidden = [[8], [16, 8]]
[[variant]]
name = "a"
[[variant]]
name = "b"
set = {train.batch_size = 5}
)");
  ASSERT_EQ(study.variants.size(), 8u);
  EXPECT_EQ(study.variants[1].name, "a, hidden = [8], lr = 0.2");
  EXPECT_EQ(study.variants[6].name, "b, hidden = [16, 8], lr = 0.1");
  EXPECT_EQ(study.variants[6].baseline, 2u) << "its own place of the grid";
  EXPECT_EQ(resolved(study, 7)["model"]["hidden"], Json({16, 8}));
  EXPECT_EQ(resolved(study, 7)["train"]["lr"], 0.2);

  const Study alone = files.read("[grid]\ntrain.lr = [0.1, 0.2]\n");
  EXPECT_THAT(names(alone), ElementsAre("lr = 0.1", "lr = 0.2"));
}

TEST(StudyConfig, OnlySomeAndWhatTheyAreComparedWith) {
  const StudyFiles files;
  const std::string three = R"(
baseline = "c"
[[variant]]
name = "a"
[[variant]]
name = "b"
set = {train.lr = 0.2}
[[variant]]
name = "c"
set = {train.lr = 0.3}
)";
  const Study study = files.read(three, {"b"});
  EXPECT_THAT(names(study), ElementsAre("b", "c"));
  EXPECT_EQ(study.variants[0].baseline, 1u);
  EXPECT_EQ(study.variants[1].baseline, 1u);
  EXPECT_THROW(files.read(three, {"d"}), Error);

  // A row of a grid by its own name: all its places, with those of the baseline.
  const Study grid = files.read(three + "[grid]\nmodel.hidden = [[8], [4]]\n", {"a"});
  EXPECT_THAT(names(grid), ElementsAre("a, hidden = [8]", "a, hidden = [4]", "c, hidden = [8]",
                                       "c, hidden = [4]"));
  EXPECT_EQ(grid.variants[1].baseline, 3u);
}

TEST(StudyConfig, MistakesAreNamedBeforeAnythingRuns) {
  const StudyFiles files;
  const auto variant = [](const std::string& set) {
    return "[[variant]]\nname = \"v\"\nset = {" + set + "}\n";
  };
  EXPECT_THAT(
      files.error(variant("train.epoch = 1")),
      AllOf(HasSubstr("variant 'v'"), HasSubstr("'epoch'"), HasSubstr("did you mean 'epochs'")));
  EXPECT_THAT(files.error(variant("strategy.name = \"fedagv\"")),
              HasSubstr("did you mean 'fedavg'"));
  EXPECT_THAT(files.error(variant("uplink = [{stage = \"hadamar\"}]")),
              HasSubstr("did you mean 'hadamard'"));
  EXPECT_THAT(files.error(variant("train.beta1 = 0.5")), HasSubstr("has no effect"));
  EXPECT_THAT(files.error(variant("model.lstm_units = 9")), HasSubstr("has no effect"));
  EXPECT_THAT(files.error(variant("seed = 2")), HasSubstr("seeds are the study's own"));
  EXPECT_THAT(files.error("[set]\nseed = 2\n"), HasSubstr("[set] sets seed = 2"));
  EXPECT_THAT(files.error("[grid]\nseed = [1, 2]\n"), HasSubstr("[grid] sets seed"));
  EXPECT_THAT(files.error(variant("train.lr = 0.1") + "[[variant]]\nname = \"w\"\n"),
              HasSubstr("the same configuration"));
  EXPECT_THAT(files.error("[[variant]]\nname = \"v\"\n[[variant]]\nname = \"v\"\n"),
              HasSubstr("two variants are called 'v'"));
  EXPECT_THAT(files.error("[[variant]]\nset = {train.lr = 1}\n"), HasSubstr("needs a name"));
  EXPECT_THAT(files.error("baselin = \"v\"\n"), HasSubstr("did you mean 'baseline'"));
  EXPECT_THAT(files.error("baseline = \"w\"\n" + variant("train.lr = 1")),
              HasSubstr("unknown baseline"));
  EXPECT_THAT(files.error("columns = [\"acuracy\"]\n"), HasSubstr("did you mean 'accuracy'"));
  EXPECT_THAT(files.error("seeds = [1, 1]\n"), HasSubstr("named twice"));
  EXPECT_THAT(files.error("seeds = []\n"), HasSubstr("at least one seed"));
  EXPECT_THAT(files.error("targets = [50]\n"), HasSubstr("targets"));
  EXPECT_THAT(files.error("[grid]\ntrain.lr = 0.1\n"), HasSubstr("list of values"));
  EXPECT_EQ(files.error(variant("train.lr = 1")), "");
}

TEST(StudyConfig, StudiesOfTheRepositoryAreSoundAndInTheirTable) {
  const std::filesystem::path folder = ESPALIER_STUDIES;
  std::map<std::string, int> rows;  // cells of each study, by README.md: "| a, b | 6 each | … |"
  std::istringstream lines(read_text_file(folder / "README.md"));
  for (std::string line; std::getline(lines, line);) {
    const size_t end = line.find(" | ");
    if (!line.starts_with("| ") || end == std::string::npos) continue;
    std::istringstream names(line.substr(2, end - 2)), counts(line.substr(end + 3));
    int last = 0;
    for (std::string name; std::getline(names >> std::ws, name, ',');) {
      int count = 0;  // "39 and 18": one each; the last is for all that follow
      std::string word;
      if (counts >> count) last = count;
      counts >> word;
      rows[name] = last;
    }
  }
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".toml") continue;
    ++count;
    const Study study = read_study(entry.path());
    EXPECT_GE(study.variants.size(), 2u) << entry.path();
    const std::string name = entry.path().stem().string();
    EXPECT_TRUE(rows.contains(name)) << name << " has no row in README.md";
    try {
      EXPECT_EQ(rows[name], cells_of(study, "0123456789abcdef").size()) << name;
    } catch (const Error& error) {
      // What a variant needs may have to be made first.
      EXPECT_THAT(error.what(), AllOf(HasSubstr("cannot read"), HasSubstr("--only")));
    }
  }
  EXPECT_GE(count, 30u);
}

}  // namespace
}  // namespace espalier::study

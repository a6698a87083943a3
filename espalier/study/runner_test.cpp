#include "espalier/study/runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "espalier/study/test_study.h"

namespace espalier::study {
namespace {

constexpr const char* kStudy =
    "seeds = [1, 2]\n[[variant]]\nname = \"a\"\n[[variant]]\nname = \"b\"\nset = {train.lr = 0.2}\n"
    "[[variant]]\nname = \"c\"\nset = {train.lr = 0.3}\n";

// Runs nothing: a job ends at the next look, with a status of the test's choice.
class Pretended final : public Places {
 public:
  explicit Pretended(size_t jobs) : jobs_(jobs) {}

  size_t jobs() const override { return jobs_; }
  std::string start(const Job& job) override {
    EXPECT_LT(running_.size(), jobs_);
    EXPECT_EQ(job.config.empty(), job.cell == begun);
    started.push_back(job.cell);
    if (job.cell != leaves_nothing) {
      make_folder(job.folder);
      write_text_file_atomic(job.folder / "config.toml", "rounds = 4\n");
      std::string lines;
      for (int round = 1; round <= (job.cell == loses_rounds ? 3 : 4); ++round)
        lines += concat("{\"round\":", round, "}\n");
      write_text_file_atomic(job.folder / "metrics.jsonl", lines);
    }
    running_.push_back(job.cell);
    if (started.size() == stop_after) stop_signal = 1;
    return "";
  }
  std::vector<Ended> ended() override {
    if (waits_for_stop && !stopped) return {};
    if (running_.empty()) return {};
    // The last begun ends first.
    const size_t cell = running_.back();
    running_.pop_back();
    Ended end{.cell = cell, .status = stopped ? 3 : 0, .error = ""};
    if (cell == fails) end.status = 1;
    if (cell == cannot) end.error = "no such program";
    return {end};
  }
  void stop() override { stopped = true; }

  static constexpr size_t kNone = 1000;
  size_t begun = kNone, fails = kNone, cannot = kNone, leaves_nothing = kNone, stop_after = kNone,
         loses_rounds = kNone;
  bool waits_for_stop = false, stopped = false;
  volatile std::sig_atomic_t stop_signal = 0;
  std::vector<size_t> started;

 private:
  size_t jobs_;
  std::vector<size_t> running_;
};

class RunnerTest : public testing::Test {
 protected:
  Outcome run(Pretended& places, const std::vector<size_t>& todo) {
    return run_cells(cells_, found_, todo, folder_, places,
                     {.quiet = true, .stop = &places.stop_signal});
  }

  StudyFiles files_;
  Study study_ = files_.read(kStudy);
  std::vector<Cell> cells_ = cells_of(study_, "0123456789abcdef");
  StudyFolder folder_ = StudyFolder::create(files_.path() / "study", study_);
  std::vector<Found> found_ = find_cells(cells_, folder_.path(), "0123456789abcdef", false);
};

TEST_F(RunnerTest, RunsEachOnceAndGoesOnAfterFailures) {
  Pretended places(2);
  places.fails = 1;
  places.cannot = 4;
  places.leaves_nothing = 5;
  places.loses_rounds = 3;
  const Outcome outcome = run(places, {0, 1, 2, 3, 4, 5});
  std::sort(places.started.begin(), places.started.end());
  EXPECT_EQ(places.started, (std::vector<size_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_FALSE(outcome.interrupted);
  EXPECT_EQ(outcome.failures.size(), 4U);
  EXPECT_NE(outcome.failures.at(3).find("3 of 4 rounds"), std::string::npos);
  EXPECT_NE(outcome.failures.at(5).find("no run folder"), std::string::npos);
  EXPECT_EQ(outcome.failures.at(1), "ended with status 1");
  EXPECT_EQ(outcome.failures.at(4), "no such program");
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path() / "starting"));
  // Whoever prints the table knows of them, until they are tried again.
  EXPECT_EQ(folder_.failures(found_), outcome.failures);
  for (const size_t c : {1, 4}) std::filesystem::remove_all(found_[c].folder);
  Pretended again(2);
  again.fails = 4;
  EXPECT_EQ(run(again, {1, 4}).failures.size(), 1U);
  const auto left = folder_.failures(found_);
  EXPECT_EQ(left.size(), 3U);
  EXPECT_EQ(left.count(1), 0U);
  EXPECT_EQ(left.at(4), "ended with status 1");
  found_[4].state = CellState::kDone;
  EXPECT_EQ(folder_.failures(found_).size(), 2U) << "what is done has not failed";
}

TEST_F(RunnerTest, TakesAFolderOfCellsAndNoOther) {
  const auto path = files_.path() / "gathered";
  EXPECT_THROW(StudyFolder::open(path), Error);
  make_folder(path / "cells" / "one");
  EXPECT_EQ(StudyFolder::open(path).path(), path);
  EXPECT_FALSE(std::filesystem::exists(path / "study.toml")) << "only looked at";
  StudyFolder::create(path, study_);
  EXPECT_TRUE(std::filesystem::exists(path / "study.toml"));
  files_.write("other/mine.txt", "mine");
  EXPECT_THROW(StudyFolder::create(files_.path() / "other", study_), Error);
}

TEST_F(RunnerTest, StopsWhatRunsAndStartsNoMore) {
  Pretended places(2);
  places.stop_after = 2;
  places.waits_for_stop = true;
  const Outcome outcome = run(places, {0, 1, 2, 3, 4, 5});
  EXPECT_EQ(places.started, (std::vector<size_t>{0, 1}));
  EXPECT_TRUE(places.stopped);
  EXPECT_TRUE(outcome.interrupted);
  EXPECT_TRUE(outcome.failures.empty());
}

TEST_F(RunnerTest, GoesOnWithWhatHasBegunAndTakesTheLongFirst) {
  // Variant c takes ten times as long as the others.
  for (const size_t c : {0, 1, 2}) found_[c].state = CellState::kDone;
  for (const size_t c : {0, 1, 2}) found_[c].rounds_done = cells_[c].rounds;
  found_[0].wall_seconds = found_[1].wall_seconds = 1;
  found_[2].wall_seconds = 10;
  found_[3].state = CellState::kBegun;
  Pretended places(2);
  places.begun = 3;
  run(places, {3, 4, 5});
  EXPECT_EQ(places.started, (std::vector<size_t>{5, 3, 4}));
}

}  // namespace
}  // namespace espalier::study

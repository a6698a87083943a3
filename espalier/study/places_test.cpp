#include "espalier/study/places.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <thread>

#include "espalier/base/error.h"
#include "espalier/study/test_study.h"

namespace espalier::study {
namespace {

namespace fs = std::filesystem;

// A program in place of `espalier`.
PlaceOptions with_program(const StudyFiles& files, const std::string& script, size_t jobs = 1,
                          size_t threads = 1) {
  files.write("program", "#!/bin/sh\n" + script);
  fs::permissions(files.path() / "program", fs::perms::owner_all);
  return {.program = files.path() / "program", .jobs = jobs, .threads = threads};
}

Job job_of(const StudyFiles& files, size_t cell) {
  return {.cell = cell,
          .config = files.path() / "base.toml",
          .folder = files.path() / "run",
          .log = files.path() / concat(cell, ".log")};
}

std::vector<Ended> wait_for(Places& places, size_t count) {
  std::vector<Ended> all;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (all.size() < count && std::chrono::steady_clock::now() < until) {
    for (Ended& one : places.ended()) all.push_back(std::move(one));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return all;
}

void wait_until(const std::function<bool()>& condition) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

TEST(LocalPlaces, SaysWhatToRunWithItsShareOfThreads) {
  const StudyFiles files;
  LocalPlaces places(with_program(files, "echo \"$@\" >&2; exit 4", 2, 7));
  EXPECT_EQ(places.jobs(), 2U);
  Job begins = job_of(files, 3), goes_on = job_of(files, 5);
  goes_on.config.clear();
  EXPECT_EQ(places.start(begins), "");
  EXPECT_EQ(places.start(goes_on), "");
  const auto ended = wait_for(places, 2);
  ASSERT_EQ(ended.size(), 2U);
  for (const Ended& one : ended) EXPECT_EQ(one.status, 4);
  EXPECT_EQ(read_text_file(begins.log),
            concat("simulate --quiet --threads 3 ", begins.config.string(), " --out ",
                   begins.folder.string(), "\n"));
  EXPECT_EQ(read_text_file(goes_on.log),
            concat("simulate --quiet --threads 3 --resume ", goes_on.folder.string(), "\n"));
}

TEST(LocalPlaces, WhatCannotBeStartedEndsWithAnError) {
  const StudyFiles files;
  LocalPlaces places(with_program(files, "exit 0"));
  Job job = job_of(files, 7);
  job.log = files.path() / "nowhere/7.log";
  places.start(job);
  const auto ended = wait_for(places, 1);
  ASSERT_EQ(ended.size(), 1U);
  EXPECT_EQ(ended[0].cell, 7U);
  EXPECT_NE(ended[0].error.find("nowhere"), std::string::npos) << ended[0].error;
}

TEST(LocalPlaces, RunsAreNoRanks) {
  const StudyFiles files;
  ::setenv("OMPI_COMM_WORLD_SIZE", "3", 1);
  ::setenv("PMIX_RANK", "1", 1);
  ::setenv("ESPALIER_MPI", "1", 1);
  LocalPlaces places(with_program(
      files, "echo \"$ESPALIER_MPI ${OMPI_COMM_WORLD_SIZE-none} ${PMIX_RANK-none}\" >&2"));
  places.start(job_of(files, 0));
  wait_for(places, 1);
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "ESPALIER_MPI"}) ::unsetenv(name);
  EXPECT_EQ(read_text_file(files.path() / "0.log"), "0 none none\n");
}

// Also what has not come to its own handler yet, and what was started by a process that ignores the
// signal, as the ranks of a job do.
TEST(LocalPlaces, StopReachesWhatHasJustBeenStarted) {
  const StudyFiles files;
  const auto before = std::signal(SIGINT, SIG_IGN);
  LocalPlaces places(with_program(files, "exec sleep 60"));
  for (size_t i = 0; i < 20; ++i) {
    places.start(job_of(files, i));
    places.stop();
    const auto ended = wait_for(places, 1);
    ASSERT_EQ(ended.size(), 1U);
    EXPECT_EQ(ended[0].status, 128 + SIGINT);
  }
  std::signal(SIGINT, before);
}

TEST(LocalPlaces, WhatRunsEndsWithThem) {
  const StudyFiles files;
  pid_t process = 0;
  {
    LocalPlaces places(with_program(files, "echo $$ >&2; exec sleep 60"));
    places.start(job_of(files, 0));
    wait_until([&] { return !read_text_file(files.path() / "0.log").empty(); });
    process = std::stoi(read_text_file(files.path() / "0.log"));
    EXPECT_EQ(::kill(process, 0), 0);
  }
  EXPECT_NE(::kill(process, 0), 0);
}

}  // namespace
}  // namespace espalier::study

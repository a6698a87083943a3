#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "espalier/study/child.h"

// Where the cells of a study run: processes of this machine (LocalPlaces), or of all ranks of an
// MPI job (rank_places.h). The runner decides which cell is next and what its end means; a place
// decides where, and with how many threads.
namespace espalier::study {

// A cell's run. All paths are absolute.
struct Job {
  size_t cell = 0;               // by which the end of it is told
  std::filesystem::path config;  // of a run that begins; empty: the one in `folder` goes on
  std::filesystem::path folder;  // the run's
  std::filesystem::path log;     // begins anew with what the run writes on standard error
};

struct Ended {
  size_t cell = 0;
  int status = 0;     // with which its process has ended, 128 + number when a signal ended it
  std::string error;  // why there was no process; otherwise empty
};

// To be used by the main thread alone (child.h). What still runs when the object goes is killed,
// and all of it when the process is.
class Places {
 public:
  virtual ~Places() = default;

  // Runs at a time, on all places together, at least 1.
  virtual size_t jobs() const = 0;
  // Starts it where there is room; fewer than jobs() may run. Returns where that is, for a person:
  // "on node7"; empty when there is but one machine. What cannot be started ends with an error.
  virtual std::string start(const Job& job) = 0;
  // What has ended since the last call; never waits.
  virtual std::vector<Ended> ended() = 0;
  // Tells all that run to end after their round.
  virtual void stop() = 0;
};

// Of one process.
struct PlaceOptions {
  // The `espalier` that runs a cell; /proc/self/exe is this build even when its file is replaced.
  std::filesystem::path program = "/proc/self/exe";
  size_t jobs = 1;     // runs at a time, at least 1
  size_t threads = 0;  // of all of them together; 0: as many as this process has processors

  size_t threads_each() const { return threads / jobs > 1 ? threads / jobs : 1; }
};

// This machine: each run a process of its own, `simulate CONFIG --out FOLDER` or `simulate --resume
// FOLDER`, so that its memory is its own and a crash is one cell's.
class LocalPlaces final : public Places {
 public:
  explicit LocalPlaces(PlaceOptions options);

  size_t jobs() const override { return options_.jobs; }
  std::string start(const Job& job) override;
  std::vector<Ended> ended() override;
  void stop() override;

  // With the number of threads that 0 stands for.
  const PlaceOptions& options() const { return options_; }

 private:
  struct Running {
    size_t cell;
    Child child;
  };
  PlaceOptions options_;
  std::vector<Running> running_;
  std::vector<Ended> not_started_;
};

}  // namespace espalier::study

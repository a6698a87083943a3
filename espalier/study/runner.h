#pragma once

#include <csignal>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "espalier/study/cells.h"
#include "espalier/study/study_folder.h"

namespace espalier::study {

struct RunnerOptions {
  // The `espalier` that runs a cell; /proc/self/exe is this build even when its file is replaced.
  std::filesystem::path program = "/proc/self/exe";
  size_t jobs = 1;     // cells at a time, at least 1
  size_t threads = 1;  // of all of them together; each gets max(1, threads / jobs)
  bool quiet = false;
};

struct Outcome {
  std::map<size_t, std::string> failures;  // of cells, by index: what they said last
  bool interrupted = false;
};

// Runs the cells `todo` (indices), each as a process of its own, so that its memory is its own and
// a crash is one cell's: `simulate CONFIG --out FOLDER`, or `simulate --resume FOLDER` for one that
// has begun. A cell that fails is noted, and the others go on. When `stop` becomes nonzero, no more
// are started and the running ones finish their round; they can be gone on with.
Outcome run_cells(const std::vector<Cell>& cells, const std::vector<Found>& found,
                  const std::vector<size_t>& todo, const StudyFolder& folder,
                  const RunnerOptions& options, const volatile std::sig_atomic_t* stop);

// Seconds until the cells `todo` are done; nullopt as long as nothing is known.
std::optional<double> time_left(const std::vector<Cell>& cells, const std::vector<Found>& found,
                                const std::vector<size_t>& todo, size_t jobs);

}  // namespace espalier::study

#pragma once

#include <csignal>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "espalier/study/cells.h"
#include "espalier/study/places.h"
#include "espalier/study/study_folder.h"

namespace espalier::study {

struct RunnerOptions {
  bool quiet = false;
  // When it becomes nonzero, no more cells are started, and the running ones finish their round;
  // they can be gone on with. Null: never.
  const volatile std::sig_atomic_t* stop = nullptr;
};

struct Outcome {
  std::map<size_t, std::string> failures;  // of cells, by index: what they said last
  bool interrupted = false;
};

// Runs the cells `todo` (indices) at `places`, as many at a time as there is room for, in the order
// of next_cell (estimate.h). A cell that fails is noted, and the others go on.
Outcome run_cells(const std::vector<Cell>& cells, const std::vector<Found>& found,
                  const std::vector<size_t>& todo, const StudyFolder& folder, Places& places,
                  const RunnerOptions& options = {});

// Seconds until the cells `todo` are done; nullopt as long as nothing is known.
std::optional<double> time_left(const std::vector<Cell>& cells, const std::vector<Found>& found,
                                const std::vector<size_t>& todo, size_t jobs);

}  // namespace espalier::study

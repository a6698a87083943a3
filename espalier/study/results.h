#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "espalier/report/run_data.h"
#include "espalier/study/cells.h"
#include "espalier/study/statistics.h"
#include "espalier/study/study_config.h"

// What the finished cells of a study measured.
namespace espalier::study {

// A round in which a variant was evaluated, with the sums of its run until then.
struct Evaluation {
  double round = 0, accuracy = 0;
  double bytes_down = 0, bytes_up = 0, macs = 0, seconds = 0;

  double bytes() const { return bytes_down + bytes_up; }
};

struct CellResult {
  std::string folder;  // its name under cells/
  std::string version;
  std::vector<Evaluation> curve;
  Json summary;
  Json last = Json::object();  // of every number in the metrics, the last one
};

CellResult read_result(const report::RunData& run, const std::string& accuracy_key);

// The first evaluation that is at least as accurate; null when there is none.
const Evaluation* reaches(const CellResult& cell, double target);

struct VariantResult {
  std::map<int64_t, CellResult> cells;    // finished, by seed
  std::map<int64_t, std::string> failed;  // what a cell said when it failed

  // One figure of every finished cell that has it (figures.h).
  BySeed figure(std::string_view name) const;
  // How many cells were evaluated at least once: those that can reach a target.
  size_t evaluated() const;
};

struct Results {
  std::vector<VariantResult> variants;  // as the study's
  std::vector<std::string> notes;       // what a reader must know: missing seeds, failures, …
};

// Reads the finished cells. `failures`: of cells, by their index; `build`: the one that reads.
Results read_results(const Study& study, const std::vector<Cell>& cells,
                     const std::vector<Found>& found, const std::map<size_t, std::string>& failures,
                     std::string_view build);

// A figure of one cell by its name; nullopt when it has none:
//   accuracy best last5 loss rounds failed            of the evaluations and the run
//   down up bytes                                     down and up per client and round; all in all
//   macs update_macs time update_time memory          of all clients; per update of a client
//   summary.KEY metrics.KEY                           any number
std::optional<double> figure_of(const CellResult& cell, std::string_view name);
// Of the list above; the last two by their prefix.
bool is_figure(std::string_view name);
const std::vector<std::string>& figure_names();

}  // namespace espalier::study

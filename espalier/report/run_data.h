#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "espalier/report/run_folder.h"

// A run as the report and the comparison read it.
namespace espalier::report {

struct RunData {
  std::string name;       // the folder's name; unique among the runs loaded together
  Json config;            // resolved configuration, as a tree
  Json summary;           // key figures; made from the metrics when the run has not written them
  bool finished = false;  // whether it has
  std::vector<Json> metrics;
  std::optional<ClientHistogram> clients;
};

// Throws Error when a folder is not a run or one of its files cannot be read.
RunData load_run(const std::filesystem::path& path);

// Loads several; runs whose folders have the same name get their parent's name before it, and a
// number if need be.
std::vector<RunData> load_runs(const std::vector<std::filesystem::path>& paths);

// The figures that metrics alone can tell: rounds, accuracy, loss, bytes, MACs, time, memory.
Json summary_from_metrics(const std::vector<Json>& metrics);

enum class Better { kNeither, kHigher, kLower };
enum class Unit { kCount, kFraction, kBytes, kSeconds, kNumber };

// One key figure: the key in summary.json, how people call it, its unit, and which way is better.
struct Figure {
  std::string_view key, label;
  Unit unit;
  Better better;
};

// In the order in which tables show them.
const std::vector<Figure>& key_figures();

// A value with its unit, for people; "–" when there is none.
std::string figure_text(std::optional<double> value, Unit unit);

// What the accuracy of a summary does not tell: whether the balanced accuracy is another (by more
// than a percentage point) or classes are never found, and these in words: "class 1 is never
// found"; empty when there are none.
bool accuracy_misleads(const Json& summary);
std::string never_found_text(const Json& summary);

// The index of the run with the best value of a figure; nullopt when fewer than two runs have one
// or all are equal.
std::optional<size_t> best_run(const std::vector<RunData>& runs, const Figure& figure);

// A text field of a summary ("strategy"); empty when it is absent.
std::string text_in(const Json& object, std::string_view key);

}  // namespace espalier::report

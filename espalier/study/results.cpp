#include "espalier/study/results.h"

#include <algorithm>
#include <set>

#include "espalier/base/error.h"

namespace espalier::study {

namespace {

using report::number_in;

constexpr std::string_view kSummary = "summary.", kMetrics = "metrics.";

std::optional<double> sum(std::optional<double> a, std::optional<double> b) {
  if (!a && !b) return std::nullopt;
  return a.value_or(0) + b.value_or(0);
}

// Per update of a client, explorations and evaluations apart.
std::optional<double> per_update(const Json& summary, const char* total, double without = 0) {
  const auto value = number_in(summary, total), updates = number_in(summary, "client_updates");
  if (!value || updates.value_or(0) <= 0) return std::nullopt;
  return (*value - without) / *updates;
}

// One plain table: a name and how to find it.
struct FigureRow {
  const char* name;
  std::optional<double> (*find)(const CellResult& cell);
};

const FigureRow kFigures[] = {
    {"accuracy",
     [](const CellResult& c) -> std::optional<double> {
       if (c.curve.empty()) return std::nullopt;
       return c.curve.back().accuracy;
     }},
    {"best",
     [](const CellResult& c) -> std::optional<double> {
       std::optional<double> best;
       for (const Evaluation& at : c.curve)
         best = std::max(best.value_or(at.accuracy), at.accuracy);
       return best;
     }},
    {"last5",
     [](const CellResult& c) -> std::optional<double> {
       if (c.curve.empty()) return std::nullopt;
       const size_t n = std::min<size_t>(5, c.curve.size());
       double total = 0;
       for (size_t i = c.curve.size() - n; i < c.curve.size(); ++i) total += c.curve[i].accuracy;
       return total / static_cast<double>(n);
     }},
    {"loss", [](const CellResult& c) { return number_in(c.summary, "final_loss"); }},
    {"rounds", [](const CellResult& c) { return number_in(c.summary, "rounds_completed"); }},
    {"failed", [](const CellResult& c) { return number_in(c.summary, "clients_failed"); }},
    {"down",
     [](const CellResult& c) { return number_in(c.summary, "bytes_down_per_client_round"); }},
    {"up", [](const CellResult& c) { return number_in(c.summary, "bytes_up_per_client_round"); }},
    {"bytes",
     [](const CellResult& c) {
       return sum(number_in(c.summary, "bytes_down_total"), number_in(c.summary, "bytes_up_total"));
     }},
    {"macs", [](const CellResult& c) { return number_in(c.summary, "client_macs_total"); }},
    {"update_macs",
     [](const CellResult& c) {
       return per_update(c.summary, "client_macs_total",
                         number_in(c.summary, "exploration_macs").value_or(0) +
                             number_in(c.summary, "evaluation_macs").value_or(0));
     }},
    {"time", [](const CellResult& c) { return number_in(c.summary, "wall_seconds"); }},
    {"update_time",
     [](const CellResult& c) { return per_update(c.summary, "client_train_seconds"); }},
    {"memory", [](const CellResult& c) { return number_in(c.summary, "peak_rss_bytes"); }},
};

// "seed 3" or "seeds 1, 3"
std::string seeds_text(const std::vector<int64_t>& seeds) {
  std::string text = seeds.size() == 1 ? "seed " : "seeds ";
  for (size_t i = 0; i < seeds.size(); ++i) text += concat(i > 0 ? ", " : "", seeds[i]);
  return text;
}

std::string list_text(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// Columns of summary.KEY and metrics.KEY that no finished cell has: which keys there are is known
// when every variant has a cell.
void note_unknown_columns(const Study& study, Results& results) {
  std::set<std::string> known;
  for (const VariantResult& variant : results.variants) {
    if (variant.cells.empty()) return;
    for (const auto& [seed, cell] : variant.cells) {
      for (const auto& [key, value] : cell.summary.items())
        if (value.is_number()) known.insert(concat(kSummary, key));
      for (const auto& [key, value] : cell.last.items()) known.insert(concat(kMetrics, key));
    }
  }
  for (const std::string& column : study.options.columns) {
    if (column.find('.') == std::string::npos || known.contains(column)) continue;
    const std::string near = nearest_name(column, {known.begin(), known.end()});
    results.notes.push_back(concat("no cell has a number '", column, "', a column of the table",
                                   near.empty() ? "" : concat("; did you mean '", near, "'?")));
  }
}

void note_variant(const Study& study, size_t v, const VariantResult& result,
                  std::vector<std::string>& notes) {
  const std::string& name = study.variants[v].name;
  std::vector<int64_t> missing, with_failures;
  for (const int64_t seed : study.seeds) {
    if (!result.cells.contains(seed) && !result.failed.contains(seed)) missing.push_back(seed);
  }
  for (const auto& [seed, cell] : result.cells) {
    if (number_in(cell.summary, "clients_failed").value_or(0) > 0) with_failures.push_back(seed);
  }
  for (const auto& [seed, error] : result.failed)
    notes.push_back(concat(name, ", seed ", seed, " failed: ", error));
  if (!missing.empty()) notes.push_back(concat(name, ": ", seeds_text(missing), " not finished"));
  if (!with_failures.empty())
    notes.push_back(concat(name, ": clients failed in ", seeds_text(with_failures)));
  for (const auto& [seed, cell] : result.cells) {
    if (!cell.curve.empty()) continue;
    notes.push_back(concat(name, ": no line of metrics.jsonl has '", study.variants[v].accuracy_key,
                           "', its accuracy"));
    break;
  }
}

}  // namespace

CellResult read_result(const report::RunData& run, const std::string& accuracy_key) {
  CellResult cell;
  cell.folder = run.name;
  cell.version = report::text_in(run.summary, "version");
  cell.summary = run.summary;
  for (const Json& line : run.metrics) {
    for (const auto& [key, value] : line.items())
      if (value.is_number()) cell.last[key] = value;
    // "accuracy" stands in lines that were evaluated; other keys only count there.
    const auto accuracy = number_in(line, accuracy_key);
    if (!accuracy || !number_in(line, "accuracy")) continue;
    const auto value = [&](const char* key) { return number_in(line, key).value_or(0); };
    cell.curve.push_back({value("round"), *accuracy, value("bytes_down_total"),
                          value("bytes_up_total"), value("macs_total"), value("wall_seconds")});
  }
  return cell;
}

const Evaluation* reaches(const CellResult& cell, double target) {
  const auto found = std::find_if(cell.curve.begin(), cell.curve.end(),
                                  [&](const Evaluation& at) { return at.accuracy >= target; });
  return found == cell.curve.end() ? nullptr : &*found;
}

std::optional<double> figure_of(const CellResult& cell, std::string_view name) {
  if (name.starts_with(kSummary)) return number_in(cell.summary, name.substr(kSummary.size()));
  if (name.starts_with(kMetrics)) return number_in(cell.last, name.substr(kMetrics.size()));
  for (const FigureRow& row : kFigures)
    if (name == row.name) return row.find(cell);
  return std::nullopt;
}

bool is_figure(std::string_view name) {
  for (const std::string_view prefix : {kSummary, kMetrics})
    if (name.starts_with(prefix) && name.size() > prefix.size()) return true;
  const auto& names = figure_names();
  return std::find(names.begin(), names.end(), name) != names.end();
}

const std::vector<std::string>& figure_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const FigureRow& row : kFigures) all.emplace_back(row.name);
    return all;
  }();
  return names;
}

size_t VariantResult::evaluated() const {
  return static_cast<size_t>(std::count_if(
      cells.begin(), cells.end(), [](const auto& cell) { return !cell.second.curve.empty(); }));
}

BySeed VariantResult::figure(std::string_view name) const {
  BySeed values;
  for (const auto& [seed, cell] : cells)
    if (const auto value = figure_of(cell, name)) values[seed] = *value;
  return values;
}

Results read_results(const Study& study, const std::vector<Cell>& cells,
                     const std::vector<Found>& found, const std::map<size_t, std::string>& failures,
                     std::string_view build) {
  ESPALIER_CHECK(cells.size() == found.size());
  Results results;
  results.variants.resize(study.variants.size());
  std::map<std::string, std::set<std::string>> versions;  // of each build
  std::set<std::string> instructions;
  std::map<std::string, std::string> data;  // of a seed and a data section: the fingerprints
  bool same_data = true;
  for (size_t c = 0; c < cells.size(); ++c) {
    if (const auto failed = failures.find(c); failed != failures.end()) {
      for (const size_t v : cells[c].variants)
        results.variants[v].failed[cells[c].seed] = failed->second;
    }
    if (found[c].state != CellState::kDone) continue;
    const report::RunData run = report::load_run(found[c].folder);
    for (const size_t v : cells[c].variants) {
      results.variants[v].cells[cells[c].seed] = read_result(run, study.variants[v].accuracy_key);
    }
    versions[found[c].build].insert(found[c].version);
    if (const std::string used = report::text_in(run.summary, "instructions"); !used.empty())
      instructions.insert(used);
    if (const auto kept = report::RunFolder::open(found[c].folder).data()) {
      const std::string key = concat(cells[c].seed, cells[c].config.at("data").dump());
      same_data = same_data && data.emplace(key, kept->dump()).first->second == kept->dump();
    }
  }
  for (size_t v = 0; v < study.variants.size(); ++v)
    note_variant(study, v, results.variants[v], results.notes);
  if (!same_data) {
    results.notes.emplace_back(
        "cells of the same [data] and seed saw different samples: files have changed in between "
        "(data.json of the cells says which); remove what is out of date");
  }
  if (versions.size() > 1 || (versions.size() == 1 && versions.begin()->first != build)) {
    std::string list;
    for (const auto& [one, names] : versions)
      list += concat(list.empty() ? "" : ", ", list_text(names), " (build ", one, ")");
    results.notes.push_back(concat("cells were run by ", list, "; this is build ", build));
  }
  if (instructions.size() > 1) {
    results.notes.push_back(concat("cells were run with different vector instructions (",
                                   list_text(instructions), "), which round differently"));
  }
  note_unknown_columns(study, results);
  return results;
}

}  // namespace espalier::study

#include "espalier/study/columns.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>

#include "espalier/base/error.h"
#include "espalier/base/printable.h"
#include "espalier/report/human.h"
#include "espalier/report/text_table.h"

namespace espalier::study {

namespace {

constexpr const char* kNothing = "–";

std::string number(const char* format, double value) {
  std::array<char, 64> buffer{};
  std::snprintf(buffer.data(), buffer.size(), format, value);
  return buffer.data();
}

// "0.25×": three digits, and those of a small ratio too.
std::string times(double ratio) {
  return number(ratio < 0.1 ? "%.3f×" : ratio < 100 ? "%.2f×" : "%.0f×", ratio);
}

// A variant among the others, as a column sees it.
struct Place {
  const Study& study;
  const Results& results;
  size_t index;

  const VariantResult& mine() const { return results.variants[index]; }
  const VariantResult& baseline() const { return results.variants[study.variants[index].baseline]; }
  bool is_baseline() const { return study.variants[index].baseline == index; }
};

// Percents with their deviation.
std::string percent_text(const BySeed& values) {
  const auto found = moments(values);
  if (!found) return kNothing;
  return number("%.2f", 100 * found->mean) + (found->sd ? number(" ± %.2f", 100 * *found->sd) : "");
}

std::string amount_text(const BySeed& values, report::Unit unit) {
  const auto found = moments(values);
  return found ? report::figure_text(found->mean, unit) : kNothing;
}

// An amount, and its ratio to the baseline's.
std::string against_baseline(const Place& at, const char* figure, report::Unit unit) {
  const BySeed mine = at.mine().figure(figure);
  const auto share = ratio(mine, at.baseline().figure(figure));
  return amount_text(mine, unit) + (share ? " (" + times(*share) + ")" : "");
}

// Bytes per client and round, and how many times less than the weights in float32.
std::string against_dense(const Place& at, const char* figure) {
  const BySeed mine = at.mine().figure(figure);
  const auto less = ratio(at.mine().figure("summary.dense_bytes_per_client_round"), mine);
  return amount_text(mine, report::Unit::kBytes) + (less ? number(" (%.1f×)", *less) : "");
}

std::string difference_text(const Place& at) {
  if (at.is_baseline()) return kNothing;
  const std::string& figure = at.study.options.compare;
  const auto found = paired_difference(at.mine().figure(figure), at.baseline().figure(figure));
  if (!found) return kNothing;
  const double mean = 100 * found->moments.mean;
  std::string text = number("%+.2f", mean);
  if (found->half_width) {
    const double half = 100 * *found->half_width;
    text += number(" [%+.2f", mean - half) + number(", %+.2f]", mean + half);
  }
  const size_t pairs = found->moments.n;
  if (pairs < at.study.seeds.size() || pairs < 2)
    text += concat(" (", pairs, pairs == 1 ? " pair)" : " pairs)");
  return text;
}

// Means of the evaluations that all seeds have.
std::string curve_text(const Place& at) {
  size_t shortest = SIZE_MAX;
  for (const auto& [seed, cell] : at.mine().cells) shortest = std::min(shortest, cell.curve.size());
  if (at.mine().cells.empty() || shortest == 0) return kNothing;
  std::string text;
  for (size_t i = 0; i < shortest; ++i) {
    BySeed values;
    for (const auto& [seed, cell] : at.mine().cells) values[seed] = cell.curve[i].accuracy;
    text += concat(i > 0 ? "/" : "", number("%.1f", 100 * moments(values)->mean));
  }
  return text;
}

std::string target_text(const Place& at, double target) {
  BySeed rounds, bytes;
  for (const auto& [seed, cell] : at.mine().cells) {
    const Evaluation* reached = reaches(cell, target);
    if (reached == nullptr) continue;
    rounds[seed] = reached->round;
    bytes[seed] = reached->bytes();
  }
  const size_t all = at.mine().evaluated();
  if (all == 0) return kNothing;  // not run, or never evaluated
  if (rounds.empty()) return concat("not reached (0 of ", all, ")");
  std::string text =
      number("%.3g", moments(rounds)->mean) + ", " + report::human_bytes(moments(bytes)->mean);
  if (rounds.size() < all) text += concat(" (", share_text(rounds.size(), all), ")");
  return text;
}

report::Unit unit_of(std::string_view key) {
  const auto has = [&](std::string_view part) { return key.find(part) != std::string_view::npos; };
  if (has("accuracy") || key.ends_with("_share") || key.ends_with("mask_kept") ||
      key.ends_with("_ratio"))
    return report::Unit::kFraction;
  if (has("bytes")) return report::Unit::kBytes;
  if (has("seconds")) return report::Unit::kSeconds;
  if (has("loss") || key.ends_with("lr")) return report::Unit::kNumber;
  return report::Unit::kCount;
}

std::string any_text(const Place& at, const std::string& name) {
  const BySeed values = at.mine().figure(name);
  const report::Unit unit = unit_of(name);
  return unit == report::Unit::kFraction ? percent_text(values) : amount_text(values, unit);
}

// One plain table of columns.
struct ColumnRow {
  const char *name, *title, *doc;
  std::string (*text)(const Place& at);
};

const ColumnRow kColumns[] = {
    {"accuracy", "accuracy, %", "at the last evaluation, mean ± sd",
     [](const Place& at) { return percent_text(at.mine().figure("accuracy")); }},
    {"best", "best, %", "largest accuracy of a run, mean ± sd",
     [](const Place& at) { return percent_text(at.mine().figure("best")); }},
    {"last5", "last five, %", "mean of the last five evaluations, mean ± sd",
     [](const Place& at) { return percent_text(at.mine().figure("last5")); }},
    {"curve", "accuracy at each evaluation, %", "means, one after the other", curve_text},
    {"loss", "loss", "at the last evaluation, mean",
     [](const Place& at) { return amount_text(at.mine().figure("loss"), report::Unit::kNumber); }},
    {"difference", "difference, points",
     "of the accuracy to the baseline's, paired by seed, with its 95 % interval", difference_text},
    {"down", "down per client and round", "bytes; in brackets how many times less than float32",
     [](const Place& at) { return against_dense(at, "down"); }},
    {"up", "up", "the same of updates", [](const Place& at) { return against_dense(at, "up"); }},
    {"bytes", "all bytes of a run", "both directions; in brackets the ratio to the baseline",
     [](const Place& at) { return against_baseline(at, "bytes", report::Unit::kBytes); }},
    {"macs", "client MACs of a run", "multiply-accumulates; in brackets the ratio to the baseline",
     [](const Place& at) { return against_baseline(at, "macs", report::Unit::kCount); }},
    {"update_macs", "MACs per update",
     "explorations and evaluations apart; in brackets the ratio to the baseline",
     [](const Place& at) { return against_baseline(at, "update_macs", report::Unit::kCount); }},
    {"time", "time of a run", "wall time; in brackets the ratio to the baseline",
     [](const Place& at) { return against_baseline(at, "time", report::Unit::kSeconds); }},
    {"update_time", "time per update",
     "of a client, one thread; in brackets the ratio to the baseline",
     [](const Place& at) { return against_baseline(at, "update_time", report::Unit::kSeconds); }},
    {"memory", "peak memory", "of a run's process; in brackets the ratio to the baseline",
     [](const Place& at) { return against_baseline(at, "memory", report::Unit::kBytes); }},
    {"rounds", "rounds", "of a run",
     [](const Place& at) { return amount_text(at.mine().figure("rounds"), report::Unit::kCount); }},
};
constexpr std::string_view kTargets = "targets";

struct ShownColumn {
  std::string title;
  std::function<std::string(const Place& at)> text;
};

// What the difference is to, when it is the same for all.
std::string difference_title(const Study& study) {
  const size_t first = study.variants.front().baseline;
  const bool one = std::all_of(study.variants.begin(), study.variants.end(),
                               [&](const Variant& variant) { return variant.baseline == first; });
  const std::string& figure = study.options.compare;
  return concat("difference ", figure == "accuracy" ? "" : "of " + figure + " ", "to ",
                one ? study.variants[first].name : "the baseline", ", points [95 %]");
}

std::vector<ShownColumn> columns_of(const Study& study) {
  std::vector<ShownColumn> shown;
  for (const std::string& name : study.options.columns) {
    if (name == kTargets) {
      for (const double target : study.options.targets) {
        shown.push_back({concat("rounds, bytes to ", number("%g", 100 * target), " %"),
                         [target](const Place& at) { return target_text(at, target); }});
      }
      continue;
    }
    const auto* row = std::find_if(std::begin(kColumns), std::end(kColumns),
                                   [&](const ColumnRow& column) { return name == column.name; });
    if (row == std::end(kColumns)) {
      const std::string key = name.substr(name.find('.') + 1);
      const bool percents = unit_of(name) == report::Unit::kFraction;
      shown.push_back(
          {percents ? key + ", %" : key, [name](const Place& at) { return any_text(at, name); }});
    } else {
      shown.push_back({name == "difference" ? difference_title(study) : row->title, row->text});
    }
  }
  return shown;
}

}  // namespace

std::string share_text(size_t some, size_t all) {
  return some == all ? concat(all) : concat(some, " of ", all);
}

void check_columns(const std::vector<std::string>& names) {
  std::vector<std::string> known = {std::string(kTargets)};
  for (const ColumnRow& row : kColumns) known.emplace_back(row.name);
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    if (name.find('.') != std::string::npos && is_figure(name)) continue;
    known.emplace_back("summary.KEY");
    known.emplace_back("metrics.KEY");
    fail("study", unknown_name_message("column", name, known));
  }
}

std::vector<ColumnHelp> describe_columns() {
  std::vector<ColumnHelp> help;
  for (const ColumnRow& row : kColumns) help.push_back({row.name, row.doc});
  help.push_back(
      {std::string(kTargets),
       "for each target: rounds and bytes to the first evaluation that reaches it, means "
       "of the seeds that do"});
  help.push_back({"summary.KEY", "any number of summary.json"});
  help.push_back({"metrics.KEY", "the last of any number of metrics.jsonl"});
  return help;
}

std::vector<std::vector<std::string>> table_of(const Study& study, const Results& results) {
  const std::vector<ShownColumn> columns = columns_of(study);
  std::vector<std::vector<std::string>> rows(1);
  rows[0].emplace_back("variant");
  for (const ShownColumn& column : columns) rows[0].push_back(column.title);
  rows[0].emplace_back("seeds");
  for (size_t v = 0; v < study.variants.size(); ++v) {
    std::vector<std::string>& row = rows.emplace_back();
    row.push_back(study.variants[v].name);
    for (const ShownColumn& column : columns) row.push_back(column.text({study, results, v}));
    row.push_back(share_text(results.variants[v].cells.size(), study.seeds.size()));
  }
  return rows;
}

std::string table_markdown(const Study& study, const Results& results) {
  const auto rows = table_of(study, results);
  const auto line = [](const std::vector<std::string>& cells) {
    std::string text = "|";
    for (const std::string& cell : cells) {
      text += ' ';
      for (const char c : printable(cell))
        text += c == '|' ? std::string("\\|") : std::string(1, c);
      text += " |";
    }
    return text + "\n";
  };
  std::string text = line(rows.front());
  text += line(std::vector<std::string>(rows.front().size(), "---"));
  for (size_t r = 1; r < rows.size(); ++r) text += line(rows[r]);
  return text;
}

std::string table_text(const Study& study, const Results& results) {
  std::string text = report::text_table(table_of(study, results));
  if (!results.notes.empty()) text += "\n";
  for (const std::string& note : results.notes) text += "note: " + printable(note) + "\n";
  return text;
}

}  // namespace espalier::study

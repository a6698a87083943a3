#include "espalier/report/html.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "espalier/base/config.h"
#include "espalier/base/file.h"
#include "espalier/report/assets.h"
#include "espalier/report/compare.h"
#include "espalier/report/escape.h"
#include "espalier/report/histogram.h"
#include "espalier/report/human.h"
#include "espalier/report/page.h"

namespace espalier::report {

namespace {

constexpr size_t kMaxPoints = 1000;
constexpr size_t kMaxRunColumns = 6;

// Six significant digits are more than a screen can show and keep the file small.
double shortened(double value) {
  std::array<char, 32> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.6g", value);
  return std::strtod(buffer.data(), nullptr);
}

// The metrics as columns: {"round": [1, 2, …], "accuracy": [0.1, null, …], …}, every numeric field
// that occurs.
Json columns_of(const std::vector<Json>& metrics) {
  std::vector<std::string> keys;
  std::set<std::string> known;
  for (const Json& line : metrics) {
    for (const auto& [key, value] : line.items()) {
      if (value.is_number() && known.insert(key).second) keys.push_back(key);
    }
  }
  // A thinned curve keeps rounds in which something was evaluated, for these are the ones that
  // people look for.
  std::vector<const Json*> lines;
  const size_t stride = (metrics.size() + kMaxPoints - 1) / kMaxPoints;
  for (size_t begin = 0; stride > 0 && begin < metrics.size(); begin += stride) {
    const size_t end = std::min(begin + stride, metrics.size());
    size_t chosen = begin == 0 ? 0 : end - 1;
    if (begin > 0 && end < metrics.size()) {
      for (size_t i = end; i-- > begin;) {
        if (number_in(metrics[i], "accuracy")) {
          chosen = i;
          break;
        }
      }
    }
    lines.push_back(&metrics[chosen]);
  }
  Json columns = Json::object();
  for (const std::string& key : keys) {
    Json& column = columns[key] = Json::array();
    for (const Json* line : lines) {
      const auto value = number_in(*line, key);
      column.push_back(value ? Json(shortened(*value)) : Json(nullptr));
    }
  }
  return columns;
}

std::string shown_text(const Json& summary, std::string_view key) {
  return html_escape(text_in(without_paths(summary), key));
}

std::string card(std::string_view label, const std::string& value, const std::string& detail) {
  return concat("<div class=\"card\"><div class=\"label\">", label, "</div><div class=\"value\">",
                html_escape(value), "</div><div class=\"detail\">", html_escape(detail),
                "</div></div>");
}

std::string cards(const RunData& run) {
  const Json& summary = run.summary;
  const auto value = [&](const char* key) { return number_in(summary, key); };
  const auto text = [&](const char* key, Unit unit) { return figure_text(value(key), unit); };
  std::string html = "<section class=\"cards\">";
  if (value("final_accuracy")) {
    html += card("Test accuracy", text("final_accuracy", Unit::kFraction),
                 "best " + text("best_accuracy", Unit::kFraction));
  }
  if (accuracy_misleads(summary)) {
    const std::string lost = never_found_text(summary);
    html += card("Balanced accuracy", text("final_balanced_accuracy", Unit::kFraction),
                 lost.empty() ? "every class counts alike" : lost);
  }
  if (value("final_loss"))
    html += card("Test loss", text("final_loss", Unit::kNumber), "at the last evaluation");
  std::string updates =
      value("client_updates") ? text("client_updates", Unit::kCount) + " client updates" : "";
  if (value("clients_failed").value_or(0) > 0)
    updates += ", " + text("clients_failed", Unit::kCount) + " failed";
  html += card("Rounds", text("rounds_completed", Unit::kCount), updates);
  const double dense = value("dense_bytes_per_client_round").value_or(0);
  for (const std::string direction : {"down", "up"}) {
    const auto each = number_in(summary, concat("bytes_", direction, "_per_client_round"));
    if (!each) continue;
    std::string detail =
        concat(figure_text(number_in(summary, concat("bytes_", direction, "_total")), Unit::kBytes),
               " in total");
    if (dense > 0 && *each > 0 && dense / *each > 1.01) {
      std::array<char, 48> ratio{};
      std::snprintf(ratio.data(), ratio.size(), ", %.3g× less than fp32", dense / *each);
      detail += ratio.data();
    }
    html += card(direction == "down" ? "Down, per client and round" : "Up, per client and round",
                 human_bytes(*each), detail);
  }
  if (value("client_macs_total")) {
    html += card("Client compute", text("client_macs_total", Unit::kCount) + "MAC",
                 "multiply-accumulates of all clients");
  }
  if (value("final_mask_kept")) {
    html += card("Weights left", text("final_mask_kept", Unit::kFraction),
                 value("final_part_parameters")
                     ? "a network of " + text("final_part_parameters", Unit::kCount) + " parameters"
                     : "the others are zero");
  }
  if (value("final_sent_share")) {
    html += card("Update sent", text("final_sent_share", Unit::kFraction),
                 value("final_gate_ratio")
                     ? text("final_gate_ratio", Unit::kFraction) + " of the channels per sample"
                     : "what a client has changed");
  }
  if (value("exploration_macs")) {
    html += card("Exploration", text("exploration_macs", Unit::kCount) + "MAC",
                 text("exploration_bytes_down", Unit::kBytes) + " down, " +
                     text("exploration_bytes_up", Unit::kBytes) + " up, in the totals");
  }
  if (value("evaluation_bytes_up")) {
    html += card("Evaluation at clients", text("evaluation_macs", Unit::kCount) + "MAC",
                 text("evaluation_bytes_down", Unit::kBytes) + " down, " +
                     text("evaluation_bytes_up", Unit::kBytes) + " up, in the totals");
  }
  if (value("target_accuracy")) {
    const double bytes =
        value("target_bytes_down").value_or(0) + value("target_bytes_up").value_or(0);
    html += card("To " + text("target_accuracy", Unit::kFraction),
                 value("target_round") ? text("target_round", Unit::kCount) + " rounds" : "not yet",
                 value("target_round") ? human_bytes(bytes) + " in both directions" : "");
  }
  if (value("simulated_seconds")) {
    html += card("Simulated device time", text("simulated_seconds", Unit::kSeconds),
                 "sum of rounds, each as long as its slowest client");
  }
  if (value("wall_seconds")) {
    html += card("Wall time", text("wall_seconds", Unit::kSeconds),
                 text("client_updates_per_second", Unit::kCount) + " client updates per second");
  }
  if (value("peak_rss_bytes"))
    html += card("Peak memory", text("peak_rss_bytes", Unit::kBytes), "resident, this process");
  return html + "</section>";
}

// One cell of the comparison: what is shown, and whether it is the best of its figure.
struct Cell {
  std::string html;
  bool best = false;
};

// One row per run reads well for many runs; few runs fit a page better as columns.
std::string table_of(const std::vector<std::vector<Cell>>& figures_by_run, bool runs_are_columns) {
  const size_t num_rows = runs_are_columns ? figures_by_run.size() : figures_by_run.front().size();
  const size_t num_columns =
      runs_are_columns ? figures_by_run.front().size() : figures_by_run.size();
  std::string html = "<div class=\"scroll\"><table>";
  // Columns of equal width, but never narrower than a figure.
  if (runs_are_columns) {
    html = concat("<div class=\"scroll\"><table class=\"columns\" style=\"min-width:",
                  130 + 105 * (num_columns - 1), "px\">");
  }
  for (size_t r = 0; r < num_rows; ++r) {
    html += r == 0 ? "<thead><tr>" : "<tr>";
    for (size_t c = 0; c < num_columns; ++c) {
      const Cell& cell = runs_are_columns ? figures_by_run[r][c] : figures_by_run[c][r];
      const char* tag = r == 0 || c == 0 ? "th" : "td";
      html += concat("<", tag, cell.best ? " class=\"best\">" : ">", cell.html, "</", tag, ">");
    }
    html += r == 0 ? "</tr></thead><tbody>" : "</tr>";
  }
  return html + "</tbody></table></div>";
}

std::string comparison_table(const std::vector<RunData>& runs) {
  std::vector<std::vector<Cell>> rows(
      2);  // a row per figure, a column per run, with their headings
  rows[0].push_back({"Run"});
  rows[1].push_back({"Strategy"});
  for (size_t i = 0; i < runs.size(); ++i) {
    rows[0].push_back({concat(swatch(i), html_escape(runs[i].name),
                              runs[i].finished ? "" : " <em>unfinished</em>")});
    rows[1].push_back({shown_text(runs[i].summary, "strategy")});
  }
  for (const Figure& figure : key_figures()) {
    const auto has = [&](const RunData& run) {
      return number_in(run.summary, figure.key).has_value();
    };
    if (std::none_of(runs.begin(), runs.end(), has)) continue;
    std::vector<Cell>& row = rows.emplace_back();
    row.push_back({std::string(figure.label)});
    for (size_t i = 0; i < runs.size(); ++i) {
      const std::string text = figure_text(number_in(runs[i].summary, figure.key), figure.unit);
      row.push_back({html_escape(text), best_run(runs, figure) == i});
    }
  }
  std::vector<Cell>& row = rows.emplace_back();
  row.push_back({"Bytes against the first run"});
  for (const RunData& run : runs) {
    const auto ratio = bytes_ratio(run, runs.front());
    std::array<char, 32> text{};
    if (ratio) std::snprintf(text.data(), text.size(), "%.3g×", *ratio);
    row.push_back({ratio ? text.data() : "–"});
  }
  return "<section><h2>Key figures</h2>" + table_of(rows, runs.size() <= kMaxRunColumns) +
         "</section>";
}

void flatten(const Json& value, const std::string& path, std::map<std::string, std::string>& out) {
  if (value.is_object() && !value.empty()) {
    for (const auto& [key, item] : value.items())
      flatten(item, path.empty() ? key : path + "." + key, out);
  } else {
    out[path] = value.is_string() ? value.get<std::string>()
                                  : value.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
}

// The keys whose values are not the same in all runs: what a comparison is about.
std::string differences(const std::vector<RunData>& runs) {
  std::vector<std::map<std::string, std::string>> flat(runs.size());
  std::set<std::string> keys;
  for (size_t i = 0; i < runs.size(); ++i) {
    flatten(without_paths(runs[i].config), "", flat[i]);
    for (const auto& [key, value] : flat[i]) keys.insert(key);
  }
  std::string rows;
  for (const std::string& key : keys) {
    const auto value = [&](size_t i) {
      return flat[i].contains(key) ? flat[i].at(key) : std::string("–");
    };
    bool same = true;
    for (size_t i = 1; i < runs.size(); ++i) same = same && value(i) == value(0);
    if (same) continue;
    rows += concat("<tr><th>", html_escape(key), "</th>");
    for (size_t i = 0; i < runs.size(); ++i) rows += concat("<td>", html_escape(value(i)), "</td>");
    rows += "</tr>";
  }
  if (rows.empty()) return "";
  std::string html =
      "<section><h2>What differs in the configuration</h2><div "
      "class=\"scroll\"><table><thead><tr><th>Key</th>";
  for (const RunData& run : runs) html += concat("<th>", html_escape(run.name), "</th>");
  return html + "</tr></thead><tbody>" + rows + "</tbody></table></div></section>";
}

std::string clients_and_configuration(const std::vector<RunData>& runs) {
  std::string html;
  const bool several = runs.size() > 1;
  for (const RunData& run : runs) {
    const std::string histogram = run.clients ? histogram_html(*run.clients) : "";
    if (histogram.empty()) continue;
    const std::string title =
        several ? "Labels of the clients: " + html_escape(run.name) : "Labels of the clients";
    if (several)
      html += concat("<details><summary>", title, "</summary>", histogram, "</details>");
    else
      html += concat("<section><h2>", title, "</h2>", histogram, "</section>");
  }
  for (const RunData& run : runs) {
    html += concat("<details><summary>Configuration", several ? ": " + html_escape(run.name) : "",
                   "</summary><pre>", html_escape(to_toml(without_paths(run.config))),
                   "</pre></details>");
  }
  return html;
}

// What was said at the start of a run.
std::string notes(const RunData& run) {
  const auto found = run.summary.find("notes");
  if (found == run.summary.end() || !found->is_array() || found->empty()) return "";
  std::string html = "<section><h2>Notes</h2><ul>";
  for (const Json& note : *found) {
    if (note.is_string()) html += concat("<li>", html_escape(note.get<std::string>()), "</li>");
  }
  return html + "</ul></section>";
}

std::string subtitle(const RunData& run) {
  std::string html = "<p class=\"chips\">";
  for (const char* key : {"strategy", "model", "dataset"}) {
    const std::string text = shown_text(run.summary, key);
    if (!text.empty()) html += concat("<span>", key, " <b>", text, "</b></span>");
  }
  if (const auto seed = run.summary.find("seed");
      seed != run.summary.end() && seed->is_number_integer()) {
    html += concat("<span>seed <b>", seed->dump(), "</b></span>");
  }
  return html + (run.finished ? "" : "<span class=\"warn\">unfinished</span>") + "</p>";
}

}  // namespace

std::string render_html(const std::vector<RunData>& runs) {
  ESPALIER_CHECK(!runs.empty());
  const bool several = runs.size() > 1;
  const std::string title =
      several ? concat("Comparison of ", runs.size(), " runs") : runs.front().name;

  Json data{{"runs", Json::array()}};
  for (const RunData& run : runs)
    data["runs"].push_back({{"name", run.name}, {"columns", columns_of(run.metrics)}});

  std::string body = several ? comparison_table(runs) : cards(runs.front());
  body += "<noscript><p>The curves need JavaScript.</p></noscript>\n<div id=\"charts\"></div>\n";
  body += several ? differences(runs) : notes(runs.front());
  body += clients_and_configuration(runs);
  return page({.title = title,
               .kind = several ? "comparison" : "run report",
               .subtitle = several ? "" : subtitle(runs.front()),
               .body = body,
               .data = data,
               .script = assets::kReportScript});
}

void write_html(const std::vector<RunData>& runs, const std::filesystem::path& path) {
  write_text_file_atomic(path, render_html(runs));
}

}  // namespace espalier::report

#include "espalier/study/page.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "espalier/base/config.h"
#include "espalier/report/escape.h"
#include "espalier/report/human.h"
#include "espalier/report/page.h"
#include "espalier/study/columns.h"
#include "espalier/study/page_assets.h"
#include "espalier/study/study_json.h"

namespace espalier::study {

namespace {

using report::html_escape;
using report::swatch;

std::string chips(const Study& study, const std::vector<Found>& found) {
  const auto done = static_cast<size_t>(std::count_if(
      found.begin(), found.end(), [](const Found& one) { return one.state == CellState::kDone; }));
  const auto chip = [](const char* label, const std::string& value) {
    return concat("<span>", label, " <b>", html_escape(value), "</b></span>");
  };
  std::string html = "<p class=\"chips\">";
  html += chip("variants", std::to_string(study.variants.size()));
  std::string seeds;
  for (const int64_t seed : study.seeds) seeds += concat(seeds.empty() ? "" : ", ", seed);
  html += chip("seeds", seeds);
  html += chip("runs", share_text(done, found.size()));
  for (const std::string& one : study.only) html += chip("only", one);
  for (const std::string& one : study.assignments) {
    const Json shown = report::without_paths(one);
    html += chip("set", shown.get<std::string>());
  }
  if (done < found.size()) html += "<span class=\"warn\">unfinished</span>";
  html += "</p>";
  if (!study.options.description.empty())
    html += concat("<p class=\"about\">", html_escape(study.options.description), "</p>");
  return html;
}

std::string table_html(const Study& study, const Results& results) {
  const auto rows = table_of(study, results);
  std::string html = "<section><h2>Variants</h2><div class=\"scroll\"><table><thead><tr>";
  for (const std::string& title : rows.front()) html += concat("<th>", html_escape(title), "</th>");
  html += "</tr></thead><tbody>";
  for (size_t r = 1; r < rows.size(); ++r) {
    html += concat("<tr><th>", swatch(r - 1), html_escape(rows[r][0]), "</th>");
    for (size_t c = 1; c < rows[r].size(); ++c)
      html += concat("<td>", html_escape(rows[r][c]), "</td>");
    html += "</tr>";
  }
  html +=
      "</tbody></table></div><p class=\"hint\">Means ± standard deviation over seeds. The "
      "difference is paired by seed, with its 95 % interval (Student's t). In brackets: the "
      "ratio to the baseline; of bytes per client and round, how many times less than the "
      "weights in float32.</p>";
  for (const std::string& note : results.notes) {
    const Json shown = report::without_paths(note);
    html += concat("<p class=\"hint warn\">", html_escape(shown.get<std::string>()), "</p>");
  }
  return html + "</section>";
}

// What one kind of bar shows of a target.
struct Bars {
  const char* title;
  report::Unit unit;
  double (*value)(const Evaluation& at);
};

std::string bars_html(const Study& study, const Results& results, double target, const Bars& bars) {
  std::vector<std::optional<Moments>> means;
  std::vector<size_t> reached;
  double most = 0;
  for (const VariantResult& variant : results.variants) {
    BySeed values;
    for (const auto& [seed, cell] : variant.cells)
      if (const Evaluation* at = reaches(cell, target)) values[seed] = bars.value(*at);
    means.push_back(moments(values));
    reached.push_back(values.size());
    if (means.back()) most = std::max(most, means.back()->mean);
  }
  std::string html = concat("<div class=\"chart bars-of\"><h3>", bars.title, "</h3>");
  for (size_t v = 0; v < means.size(); ++v) {
    const size_t all = results.variants[v].evaluated();
    std::string text = means[v] ? report::figure_text(means[v]->mean, bars.unit) : "not reached";
    if (means[v] && reached[v] < all) text += concat(" (", share_text(reached[v], all), ")");
    if (all == 0) text = results.variants[v].cells.empty() ? "not run" : "not evaluated";
    std::array<char, 24> width{};
    const double share = means[v] && most > 0 ? means[v]->mean / most : 0;
    std::snprintf(width.data(), width.size(), "%.1f%%", 100 * share);
    html += concat("<div class=\"bar\"><span>", html_escape(study.variants[v].name),
                   "</span><b><i style=\"width:", width.data(),
                   ";background:", report::swatch_background(v), "\"></i></b><em>",
                   html_escape(text), "</em></div>");
  }
  return html + "</div>";
}

std::string targets_html(const Study& study, const Results& results) {
  static constexpr Bars kBars[] = {
      {"Rounds", report::Unit::kCount, [](const Evaluation& at) { return at.round; }},
      {"Bytes, down and up", report::Unit::kBytes, [](const Evaluation& at) { return at.bytes(); }},
      {"Client MACs", report::Unit::kCount, [](const Evaluation& at) { return at.macs; }},
  };
  std::string html;
  for (const double target : study.options.targets) {
    html += concat("<section><h2>To ", report::human_percent(target), "</h2><div class=\"grid\">");
    for (const Bars& bars : kBars) html += bars_html(study, results, target, bars);
    html += "</div></section>";
  }
  return html;
}

std::string settings_html(const Study& study) {
  std::string html =
      "<details><summary>What the variants set</summary><div class=\"scroll\"><table>";
  for (size_t v = 0; v < study.variants.size(); ++v) {
    std::string text;
    for (const Assignment& one : study.variants[v].set)
      text += one.key + " = " + to_toml_value(report::without_paths(one.value)) + "\n";
    html += concat("<tr><th>", swatch(v), html_escape(study.variants[v].name), "</th><td><pre>",
                   text.empty() ? "the base as it is" : html_escape(text), "</pre></td></tr>");
  }
  html += "</table></div></details>";
  return html + concat("<details><summary>Base configuration</summary><pre>",
                       html_escape(to_toml(report::without_paths(study.base))), "</pre></details>");
}

}  // namespace

std::string render_page(const Study& study, const std::vector<Found>& found,
                        const Results& results) {
  Json variants = Json::array();
  const std::vector<size_t> front = pareto_of(study, results);
  for (size_t v = 0; v < study.variants.size(); ++v) {
    Json curve = {{"round", Json::array()},
                  {"bytes", Json::array()},
                  {"accuracy", Json::array()},
                  {"sd", Json::array()}};
    for (const MeanEvaluation& at : mean_curve(results.variants[v])) {
      curve["round"].push_back(at.round);
      curve["bytes"].push_back(at.bytes);
      curve["accuracy"].push_back(at.accuracy.mean);
      curve["sd"].push_back(at.accuracy.sd.value_or(0));
    }
    Json entry = {{"name", study.variants[v].name}, {"curve", std::move(curve)}};
    const auto bytes = moments(results.variants[v].figure("bytes"));
    const auto accuracy = moments(results.variants[v].figure(study.options.compare));
    if (bytes && accuracy) {
      entry["bytes"] = bytes->mean;
      entry["accuracy"] = accuracy->mean;
      entry["sd"] = accuracy->sd.value_or(0);
    }
    variants.push_back(std::move(entry));
  }
  const std::string body =
      table_html(study, results) +
      "<noscript><p>The curves need JavaScript.</p></noscript>\n<div id=\"charts\"></div>\n" +
      targets_html(study, results) + settings_html(study);
  return report::page({.title = study.options.name,
                       .kind = "study",
                       .subtitle = chips(study, found),
                       .body = body,
                       .data = {{"variants", std::move(variants)}, {"front", front}},
                       .style = assets::kStudyStyle,
                       .script = assets::kStudyScript});
}

}  // namespace espalier::study

#include "espalier/report/run_data.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>

#include "espalier/base/config.h"
#include "espalier/report/human.h"

namespace espalier::report {

namespace fs = std::filesystem;

std::string text_in(const Json& object, std::string_view key) {
  if (!object.is_object()) return "";
  const auto found = object.find(std::string(key));
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

Json summary_from_metrics(const std::vector<Json>& metrics) {
  Json summary;
  summary["rounds_completed"] = metrics.size();
  std::optional<double> best;
  double updates = 0, failed = 0, train_seconds = 0, peak = 0;
  for (const Json& line : metrics) {
    if (const auto accuracy = number_in(line, "accuracy")) {
      summary["final_accuracy"] = *accuracy;
      best = std::max(best.value_or(*accuracy), *accuracy);
    }
    if (const auto loss = number_in(line, "loss")) summary["final_loss"] = *loss;
    for (const char* key : {"balanced_accuracy", "never_found", "num_never_found", "recall"}) {
      if (const auto found = line.find(key); found != line.end())
        summary[concat("final_", key)] = *found;
    }
    updates += number_in(line, "clients_selected").value_or(0);
    failed += number_in(line, "clients_failed").value_or(0);
    train_seconds += number_in(line, "train_seconds").value_or(0);
    peak = std::max(peak, number_in(line, "peak_rss_bytes").value_or(0));
  }
  if (best) summary["best_accuracy"] = *best;
  if (metrics.empty()) return summary;
  const Json& last = metrics.back();
  for (const char* direction : {"bytes_down", "bytes_up"}) {
    if (const auto total = number_in(last, concat(direction, "_total"))) {
      summary[concat(direction, "_total")] = *total;
      if (updates > 0) summary[concat(direction, "_per_client_round")] = *total / updates;
    }
  }
  if (const auto macs = number_in(last, "macs_total")) summary["client_macs_total"] = *macs;
  if (const auto simulated = number_in(last, "simulated_seconds_total"))
    summary["simulated_seconds"] = *simulated;
  if (const auto wall = number_in(last, "wall_seconds")) {
    summary["wall_seconds"] = *wall;
    if (*wall > 0 && updates > 0) summary["client_updates_per_second"] = updates / *wall;
  }
  if (updates > 0) summary["client_updates"] = updates;
  summary["clients_failed"] = failed;
  summary["train_seconds"] = train_seconds;
  if (peak > 0) summary["peak_rss_bytes"] = peak;
  return summary;
}

RunData load_run(const fs::path& path) {
  const RunFolder folder = RunFolder::open(path);
  RunData run;
  run.name = folder.name();
  run.config = read_toml_file(folder.config_path());
  run.metrics = folder.metrics();
  run.clients = folder.clients();
  run.summary = summary_from_metrics(run.metrics);
  const auto strategy = run.config.find("strategy");
  if (strategy != run.config.end()) run.summary["strategy"] = text_in(*strategy, "name");
  if (const auto summary = folder.summary()) {
    run.finished = true;
    run.summary.update(*summary);
  }
  return run;
}

std::vector<RunData> load_runs(const std::vector<fs::path>& paths) {
  std::vector<RunData> runs;
  std::map<std::string, int> count;
  for (const fs::path& path : paths) {
    runs.push_back(load_run(path));
    ++count[runs.back().name];
  }
  std::map<std::string, int> used;
  for (size_t i = 0; i < runs.size(); ++i) {
    std::string& name = runs[i].name;
    if (count[name] > 1) {
      const fs::path full = fs::absolute(paths[i] / "").lexically_normal();
      name = full.parent_path().parent_path().filename().string() + "/" + name;
    }
    if (const int times = ++used[name]; times > 1) name += concat(" (", times, ")");
  }
  return runs;
}

bool accuracy_misleads(const Json& summary) {
  const auto accuracy = number_in(summary, "final_accuracy"),
             balanced = number_in(summary, "final_balanced_accuracy");
  if (!accuracy || !balanced) return false;
  return std::abs(*accuracy - *balanced) > 0.01 || !never_found_text(summary).empty();
}

std::string never_found_text(const Json& summary) {
  const auto lost = number_in(summary, "final_num_never_found").value_or(0);
  const auto classes = summary.find("final_never_found");
  if (lost < 1 || classes == summary.end() || !classes->is_array() || classes->empty()) return "";
  constexpr size_t kShown = 5;
  std::string list;
  for (size_t i = 0; i < std::min(classes->size(), kShown); ++i) {
    const bool last = static_cast<double>(i + 1) == lost;
    list += concat(i == 0 ? "" : last ? " and " : ", ", (*classes)[i].dump());
  }
  if (lost == 1) return concat("class ", list, " is never found");
  if (lost <= static_cast<double>(kShown)) return concat("classes ", list, " are never found");
  return concat(lost, " classes are never found (", list, ", …)");
}

const std::vector<Figure>& key_figures() {
  static const std::vector<Figure> figures = {
      {"rounds_completed", "Rounds", Unit::kCount, Better::kNeither},
      {"final_accuracy", "Final accuracy", Unit::kFraction, Better::kHigher},
      {"best_accuracy", "Best accuracy", Unit::kFraction, Better::kHigher},
      {"final_balanced_accuracy", "Balanced accuracy", Unit::kFraction, Better::kHigher},
      {"final_loss", "Final loss", Unit::kNumber, Better::kLower},
      {"bytes_down_per_client_round", "Down per client-round", Unit::kBytes, Better::kLower},
      {"bytes_up_per_client_round", "Up per client-round", Unit::kBytes, Better::kLower},
      {"bytes_down_total", "Down in total", Unit::kBytes, Better::kLower},
      {"bytes_up_total", "Up in total", Unit::kBytes, Better::kLower},
      {"client_macs_total", "Client MACs", Unit::kCount, Better::kLower},
      {"final_mask_kept", "Weights left", Unit::kFraction, Better::kNeither},
      {"final_part_parameters", "Parameters left", Unit::kCount, Better::kNeither},
      {"final_sent_share", "Update sent", Unit::kFraction, Better::kNeither},
      {"target_round", "Round of the target", Unit::kCount, Better::kLower},
      {"simulated_seconds", "Simulated device time", Unit::kSeconds, Better::kLower},
      {"client_updates", "Client updates", Unit::kCount, Better::kNeither},
      {"client_updates_per_second", "Updates per second", Unit::kCount, Better::kHigher},
      {"wall_seconds", "Wall time", Unit::kSeconds, Better::kLower},
      {"peak_rss_bytes", "Peak memory", Unit::kBytes, Better::kLower},
      {"clients_failed", "Failed clients", Unit::kCount, Better::kLower},
  };
  return figures;
}

std::string figure_text(std::optional<double> value, Unit unit) {
  if (!value) return "–";
  switch (unit) {
    case Unit::kFraction:
      return human_percent(*value);
    case Unit::kBytes:
      return human_bytes(*value);
    case Unit::kSeconds:
      return human_seconds(*value);
    case Unit::kCount:
      // Counts that are short anyway are shown to the last one.
      if (*value == std::floor(*value) && std::fabs(*value) < 100'000)
        return concat(static_cast<int64_t>(*value));
      return human_count(*value);
    case Unit::kNumber:
      break;
  }
  std::array<char, 32> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.4f", *value);
  return buffer.data();
}

std::optional<size_t> best_run(const std::vector<RunData>& runs, const Figure& figure) {
  if (figure.better == Better::kNeither) return std::nullopt;
  std::optional<size_t> best;
  double best_value = 0;
  bool differ = false;
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto value = number_in(runs[i].summary, figure.key);
    if (!value) continue;
    if (best && *value != best_value) differ = true;
    if (!best || (figure.better == Better::kHigher ? *value > best_value : *value < best_value)) {
      best = i;
      best_value = *value;
    }
  }
  return differ ? best : std::nullopt;
}

}  // namespace espalier::report

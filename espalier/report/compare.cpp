#include "espalier/report/compare.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>

#include "espalier/report/human.h"
#include "espalier/report/text_table.h"

namespace espalier::report {

namespace {

std::string ratio_text(std::optional<double> ratio) {
  if (!ratio) return "–";
  std::array<char, 32> buffer{};
  std::snprintf(buffer.data(), buffer.size(), *ratio < 0.1 ? "%.3fx" : "%.2fx", *ratio);
  return buffer.data();
}

std::vector<double> accuracies(const RunData& run) {
  std::vector<double> values;
  for (const Json& line : run.metrics) {
    if (const auto accuracy = number_in(line, "accuracy")) values.push_back(*accuracy);
  }
  return values;
}

}  // namespace

std::optional<double> total_bytes(const RunData& run) {
  const auto down = number_in(run.summary, "bytes_down_total"),
             up = number_in(run.summary, "bytes_up_total");
  if (!down && !up) return std::nullopt;
  return down.value_or(0) + up.value_or(0);
}

std::optional<double> bytes_ratio(const RunData& run, const RunData& first) {
  const auto mine = total_bytes(run), base = total_bytes(first);
  if (!mine || !base || *base <= 0) return std::nullopt;
  return *mine / *base;
}

std::string compare_text(const std::vector<RunData>& runs) {
  std::vector<std::vector<std::string>> rows = {{"run", "strategy", "rounds", "final acc",
                                                 "best acc", "down/client", "up/client", "total",
                                                 "ratio", "MACs", "wall", "peak mem", "accuracy"}};
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const RunData& run : runs) {
    for (const double value : accuracies(run)) {
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  for (const RunData& run : runs) {
    const auto figure = [&](const char* key, Unit unit) {
      return figure_text(number_in(run.summary, key), unit);
    };
    rows.push_back(
        {run.finished ? run.name : run.name + " (unfinished)", text_in(run.summary, "strategy"),
         figure("rounds_completed", Unit::kCount), figure("final_accuracy", Unit::kFraction),
         figure("best_accuracy", Unit::kFraction),
         figure("bytes_down_per_client_round", Unit::kBytes),
         figure("bytes_up_per_client_round", Unit::kBytes),
         figure_text(total_bytes(run), Unit::kBytes), ratio_text(bytes_ratio(run, runs.front())),
         figure("client_macs_total", Unit::kCount), figure("wall_seconds", Unit::kSeconds),
         figure("peak_rss_bytes", Unit::kBytes), sparkline(accuracies(run), 16, low, high)});
  }
  return text_table(rows);
}

Json compare_json(const std::vector<RunData>& runs) {
  Json list = Json::array();
  for (const RunData& run : runs) {
    Json entry{{"run", run.name}, {"finished", run.finished}};
    const auto ratio = bytes_ratio(run, runs.front());
    entry["bytes_ratio_to_first"] = ratio ? Json(*ratio) : Json(nullptr);
    entry.update(run.summary);
    list.push_back(std::move(entry));
  }
  return Json{{"runs", std::move(list)}};
}

}  // namespace espalier::report

#include "espalier/report/text_table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

#include "espalier/base/printable.h"
#include "espalier/report/human.h"
#include "espalier/report/run_data.h"

namespace espalier::report {

std::string text_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::vector<std::string>> cells = rows;
  std::vector<size_t> widths;
  for (auto& row : cells) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) {
      row[c] = printable(row[c]);
      widths[c] = std::max(widths[c], display_width(row[c]));
    }
  }
  std::string text;
  for (const auto& row : cells) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string padding(widths[c] - display_width(row[c]), ' ');
      if (c > 0) line += "  ";
      line += c == 0 ? row[c] + padding : padding + row[c];
    }
    line.resize(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

namespace {

// " (4.00x less than fp32)"; nothing when the two are about equal.
std::string against_dense(double ratio) {
  if (ratio > 0.99 && ratio < 1.01) return "";
  std::array<char, 64> buffer{};
  std::snprintf(buffer.data(), buffer.size(), " (%.2fx %s than fp32)",
                ratio < 1 ? 1 / ratio : ratio, ratio < 1 ? "less" : "more");
  return buffer.data();
}

// " (data 55.2 MB, replicas 35.7 MB, server and messages 101 MB, program 30.0 MB)": what the peak
// was for; nothing when the summary does not say.
std::string memory_text(const Json& summary) {
  const auto memory = summary.find("memory_bytes");
  if (memory == summary.end()) return "";
  const std::pair<const char*, std::vector<const char*>> groups[] = {
      {"data", {"data"}},
      {"replicas", {"weights", "activations", "scratch"}},
      {"server and messages", {"server", "updates", "recycled", "heap"}},
      {"program", {"code", "other"}}};
  std::string text;
  for (const auto& [name, parts] : groups) {
    double bytes = 0;
    for (const char* part : parts) bytes += number_in(*memory, part).value_or(0);
    text += concat(text.empty() ? " (" : ", ", name, " ", human_bytes(bytes));
  }
  return text + ")";
}

}  // namespace

std::string summary_block(const Json& summary, std::string_view report_path) {
  std::vector<std::pair<std::string, std::string>> rows;
  const auto value = [&](const char* key) { return number_in(summary, key); };
  const auto text = [&](const char* key, Unit unit) { return figure_text(value(key), unit); };

  if (value("final_accuracy")) {
    std::string accuracy = text("final_accuracy", Unit::kFraction);
    if (value("best_accuracy"))
      accuracy += " (best " + text("best_accuracy", Unit::kFraction) + ")";
    if (value("final_loss")) accuracy += ", loss " + text("final_loss", Unit::kNumber);
    rows.emplace_back("accuracy", accuracy);
  }
  if (accuracy_misleads(summary)) {
    const std::string lost = never_found_text(summary);
    rows.emplace_back("balanced accuracy", text("final_balanced_accuracy", Unit::kFraction) +
                                               (lost.empty() ? "" : ", " + lost));
  }
  for (const auto& [key, width] : summary.items()) {
    constexpr std::string_view kPrefix = "final_accuracy_at_";
    if (key.starts_with(kPrefix) && width.is_number())
      rows.emplace_back("width " + key.substr(kPrefix.size()),
                        figure_text(width.get<double>(), Unit::kFraction));
  }
  if (value("rounds_completed")) {
    std::string rounds = text("rounds_completed", Unit::kCount);
    if (value("client_updates"))
      rounds += ", " + text("client_updates", Unit::kCount) + " client updates";
    if (value("clients_failed").value_or(0) > 0)
      rounds += ", " + text("clients_failed", Unit::kCount) + " failed";
    rows.emplace_back("rounds", rounds);
  }
  const double dense = value("dense_bytes_per_client_round").value_or(0);
  for (const std::string direction : {"down", "up"}) {
    const auto total = number_in(summary, concat("bytes_", direction, "_total"));
    if (!total) continue;
    std::string bytes = human_bytes(*total);
    if (const auto each = number_in(summary, concat("bytes_", direction, "_per_client_round"))) {
      bytes += ", " + human_bytes(*each) + " per client and round";
      if (dense > 0 && *each > 0) bytes += against_dense(*each / dense);
    }
    rows.emplace_back("bytes " + direction, bytes);
  }
  if (value("final_mask_kept")) {
    std::string kept = text("final_mask_kept", Unit::kFraction) + " of the weights left";
    if (value("final_part_parameters"))
      kept += ", a network of " + text("final_part_parameters", Unit::kCount) + " parameters";
    rows.emplace_back("pruned", kept);
  }
  if (value("final_sent_share")) {
    std::string gates = text("final_sent_share", Unit::kFraction) + " of an update sent";
    if (value("final_gate_ratio"))
      gates = text("final_gate_ratio", Unit::kFraction) + " of the channels per sample, " + gates;
    rows.emplace_back("salient", gates);
  }
  if (value("exploration_bytes_up")) {
    rows.emplace_back("exploration", text("exploration_bytes_down", Unit::kBytes) + " down, " +
                                         text("exploration_bytes_up", Unit::kBytes) + " up, " +
                                         text("exploration_macs", Unit::kCount) +
                                         " MACs (in the totals)");
  }
  if (value("evaluation_bytes_up")) {
    rows.emplace_back("evaluation", text("evaluation_bytes_down", Unit::kBytes) + " down, " +
                                        text("evaluation_bytes_up", Unit::kBytes) + " up, " +
                                        text("evaluation_macs", Unit::kCount) +
                                        " MACs at clients (in the totals)");
  }
  if (value("target_accuracy")) {
    const double bytes =
        value("target_bytes_down").value_or(0) + value("target_bytes_up").value_or(0);
    rows.emplace_back("target", text("target_accuracy", Unit::kFraction) +
                                    (value("target_round")
                                         ? " after round " + text("target_round", Unit::kCount) +
                                               ", " + human_bytes(bytes) + ", " +
                                               text("target_macs", Unit::kCount) + " MACs"
                                         : std::string(" not reached")));
  }
  if (value("client_macs_total"))
    rows.emplace_back("client MACs", text("client_macs_total", Unit::kCount));
  if (value("simulated_seconds"))
    rows.emplace_back("devices", text("simulated_seconds", Unit::kSeconds) +
                                     " (simulated: every round as long as its slowest client)");
  if (value("wall_seconds")) {
    std::string time = text("wall_seconds", Unit::kSeconds);
    if (value("client_updates_per_second")) {
      time += ", " + text("client_updates_per_second", Unit::kCount) + " client updates/s";
    }
    rows.emplace_back("time", time);
  }
  if (value("peak_rss_bytes"))
    rows.emplace_back("peak memory", text("peak_rss_bytes", Unit::kBytes) + memory_text(summary));
  if (!report_path.empty()) rows.emplace_back("report", std::string(report_path));

  size_t width = 0;
  for (const auto& row : rows) width = std::max(width, row.first.size());
  std::string block;
  for (const auto& [label, figure] : rows) {
    block += label + std::string(width - label.size() + 2, ' ') + figure + "\n";
  }
  return block;
}

std::string sparkline(const std::vector<double>& values, size_t width, double low, double high) {
  static constexpr std::array<const char*, 8> kSteps = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const size_t cells = std::min(width, values.size());
  std::string text;
  for (size_t i = 0; i < cells; ++i) {
    // Cell i stands for the last value of its stretch, so that the last cell is the last value.
    const double value = values[(i + 1) * values.size() / cells - 1];
    if (!std::isfinite(value)) {
      text += " ";
      continue;
    }
    const double share = high > low ? std::clamp((value - low) / (high - low), 0.0, 1.0) : 0.5;
    text += kSteps[static_cast<size_t>(std::lround(share * 7))];
  }
  return text;
}

}  // namespace espalier::report

#include "espalier/data/partition_summary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iomanip>
#include <sstream>

namespace espalier::data {

namespace {

constexpr size_t kMaxColumns = 100;  // classes beyond this are not drawn

std::string histogram(const PartitionSummary& summary, uint64_t client) {
  static constexpr std::array<const char*, 9> kBlocks = {"·", "▁", "▂", "▃", "▄",
                                                         "▅", "▆", "▇", "█"};
  const uint32_t* counts = summary.class_counts.data() + client * summary.num_classes;
  const uint32_t largest =
      std::max<uint32_t>(*std::max_element(counts, counts + summary.num_classes), 1);
  std::string text;
  for (size_t c = 0; c < std::min(summary.num_classes, kMaxColumns); ++c) {
    // Rounded up, so that a single sample shows.
    text += kBlocks[(uint64_t{counts[c]} * 8 + largest - 1) / largest];
  }
  return text;
}

}  // namespace

PartitionSummary summarize(const Partition& partition, const Dataset& dataset,
                           uint64_t max_clients) {
  PartitionSummary summary;
  summary.num_clients = partition.num_clients();
  summary.counted_clients =
      max_clients == 0 ? summary.num_clients : std::min(max_clients, summary.num_clients);
  summary.num_classes = static_cast<size_t>(dataset.num_classes);
  summary.class_counts.assign(summary.counted_clients * summary.num_classes, 0);
  std::vector<uint32_t> samples;
  std::vector<double> overall(summary.num_classes, 0);
  double total = 0;
  for (uint64_t k = 0; k < summary.counted_clients; ++k) {
    partition.samples(k, samples);
    for (const uint32_t sample : samples) {
      const auto label = static_cast<size_t>(dataset.labels[sample]);
      ++summary.class_counts[k * summary.num_classes + label];
      ++overall[label];
    }
    summary.samples.push_back(samples.size());
    total += static_cast<double>(samples.size());
  }
  if (summary.samples.empty()) return summary;
  summary.min_samples = *std::min_element(summary.samples.begin(), summary.samples.end());
  summary.max_samples = *std::max_element(summary.samples.begin(), summary.samples.end());
  summary.mean_samples = total / static_cast<double>(summary.counted_clients);
  for (uint64_t k = 0; k < summary.counted_clients; ++k) {
    const auto size = static_cast<double>(summary.samples[k]);
    double distance = 0;
    for (size_t c = 0; c < summary.num_classes; ++c)
      distance += std::abs(summary.count(k, c) / size - overall[c] / total);
    summary.label_skew += distance / 2 * size / total;
  }
  return summary;
}

Json to_json(const PartitionSummary& summary) {
  Json rows = Json::array();
  for (uint64_t k = 0; k < summary.counted_clients; ++k) {
    const auto* first = summary.class_counts.data() + k * summary.num_classes;
    rows.push_back(std::vector<uint32_t>(first, first + summary.num_classes));
  }
  return {{"clients", summary.num_clients},
          {"samples",
           {{"min", summary.min_samples},
            {"mean", summary.mean_samples},
            {"max", summary.max_samples}}},
          {"label_skew", summary.label_skew},
          {"class_counts", std::move(rows)}};
}

std::string to_text(const PartitionSummary& summary, size_t max_rows) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(1);
  out << "clients     " << summary.num_clients;
  if (summary.counted_clients < summary.num_clients)
    out << " (figures of the first " << summary.counted_clients << ")";
  out << "\nsamples     " << summary.mean_samples << " per client on average, from "
      << summary.min_samples << " to " << summary.max_samples << "\n";
  out << std::setprecision(3) << "label skew  " << summary.label_skew
      << " (0 even, towards 1 one class per client)\n\n";
  out << " client  samples  classes  histogram of labels 0…"
      << std::min(summary.num_classes, kMaxColumns) - 1 << "\n";
  const uint64_t rows = std::min<uint64_t>(summary.counted_clients, max_rows);
  for (uint64_t k = 0; k < rows; ++k) {
    size_t classes = 0;
    for (size_t c = 0; c < summary.num_classes; ++c) classes += summary.count(k, c) > 0;
    out << std::setw(7) << k << std::setw(9) << summary.samples[k] << std::setw(9) << classes
        << "  " << histogram(summary, k) << "\n";
  }
  if (rows < summary.num_clients) out << "    … and " << summary.num_clients - rows << " more\n";
  return out.str();
}

}  // namespace espalier::data

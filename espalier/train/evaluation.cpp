#include "espalier/train/evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace espalier::train {

std::vector<uint32_t> all_samples(size_t count) {
  std::vector<uint32_t> all(count);
  std::iota(all.begin(), all.end(), uint32_t{0});
  return all;
}

namespace {

// Whether the first largest logit is that of `label`, in the words of the loss: an output that is
// not a number is never larger, and first it stays the largest. Without finding the largest, so
// that the loops over many outputs run in lanes.
bool is_predicted(const float* row, size_t outputs, size_t label) {
  const float mine = row[label];
  if (std::isnan(row[0]) || std::isnan(mine)) return label == 0;
  unsigned beaten = 0;
  for (size_t c = 0; c < label; ++c) beaten |= row[c] >= mine ? 1U : 0U;
  for (size_t c = label + 1; c < outputs; ++c) beaten |= row[c] > mine ? 1U : 0U;
  return beaten == 0;
}

}  // namespace

std::vector<ClassCount> count_classes(std::span<const int64_t> labels,
                                      std::span<const float> logits) {
  if (labels.empty()) return {};
  const size_t outputs = logits.size() / labels.size();
  constexpr size_t kFew = 128;  // outputs that are counted in place; others are sorted
  std::array<ClassCount, kFew> few{};
  std::vector<uint64_t> sorted;  // label · 2 + whether it is right
  for (size_t i = 0; i < labels.size(); ++i) {
    const float* row = logits.data() + i * outputs;
    const auto label = static_cast<size_t>(labels[i]);
    const bool right = is_predicted(row, outputs, label);
    if (outputs <= kFew) {
      ++few[label].count;
      few[label].correct += right ? 1 : 0;
    } else {
      sorted.push_back(label * 2 + (right ? 1 : 0));
    }
  }
  std::vector<ClassCount> found;
  for (size_t c = 0; c < std::min(outputs, kFew); ++c) {
    if (few[c].count > 0) found.push_back({static_cast<int32_t>(c), few[c].count, few[c].correct});
  }
  std::sort(sorted.begin(), sorted.end());
  for (const uint64_t sample : sorted) {
    const auto label = static_cast<int32_t>(sample / 2);
    if (found.empty() || found.back().label != label) found.push_back({label, 0, 0});
    ++found.back().count;
    found.back().correct += sample % 2;
  }
  return found;
}

std::optional<ClassFigures> class_figures(std::span<const ClassCount> classes) {
  if (classes.empty()) return std::nullopt;
  ClassFigures figures;
  for (const ClassCount& c : classes) {
    figures.balanced_accuracy += static_cast<double>(c.correct) / static_cast<double>(c.count);
    if (c.correct == 0) figures.never_found.push_back(c.label);
  }
  figures.balanced_accuracy /= static_cast<double>(classes.size());
  return figures;
}

}  // namespace espalier::train

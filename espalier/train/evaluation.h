#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "espalier/train/trainer.h"

namespace espalier::train {

// 0, 1, …: every sample of a data set of this size.
std::vector<uint32_t> all_samples(size_t count);

// Which of the labels their samples' logits (samples × outputs, row by row) predict, by class. The
// first largest output is the prediction, as in the loss (nn/loss.h); there may be more outputs
// than classes.
std::vector<ClassCount> count_classes(std::span<const int64_t> labels,
                                      std::span<const float> logits);

// What tells a useful model from one that knows the frequent classes alone.
struct ClassFigures {
  // The share of its samples that are predicted right, averaged over the classes that occur (mean
  // recall): every class counts alike, however rare. 1/classes for a model that guesses one class.
  double balanced_accuracy = 0;
  std::vector<int64_t> never_found;  // classes none of whose samples is predicted right
};
// Nothing when the sums do not tell classes apart.
std::optional<ClassFigures> class_figures(std::span<const ClassCount> classes);

}  // namespace espalier::train

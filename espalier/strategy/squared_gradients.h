#pragma once

#include <algorithm>
#include <memory>
#include <span>

#include "espalier/params/parameter_set.h"

namespace espalier::strategy {

// Squares of a change of weights, the deviation that AutoFLIP ranks weights by: 0 for what is not
// trained.
inline std::shared_ptr<const ParameterSet> squares_of(const ParameterSet& change) {
  auto squares = std::make_shared<ParameterSet>(change.shared_layout());
  for_trainable(change.layout(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i)
      squares->values()[i] = change.values()[i] * change.values()[i];
  });
  return squares;
}

// Mean squared gradients over the steps of a training: (1/τ) Σ_t g_t², elementwise, the importance
// that PruneFL ranks weights by (Jiang et al. 2022). To be fed by FitHooks::before_step, where
// gradients are clipped already. A gradient is the mean over its batch, so these are squares of
// batch means and not means of per-sample squares, and batch_size matters.
//
// Memory: one set as long as the model; float32 throughout. Not thread-safe.
class SquaredGradients {
 public:
  // Of the model that is trained.
  explicit SquaredGradients(std::shared_ptr<const ParameterLayout> layout)
      : sums_(std::move(layout)) {}

  // One step's gradients, as many as the layout has values.
  void add(std::span<const float> gradients) {
    const auto sums = sums_.values();
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += gradients[i] * gradients[i];
    ++steps_;
  }
  // A new set of the layout; 0 for what is not trained, and everywhere before the first step.
  // Adding may go on.
  std::shared_ptr<const ParameterSet> mean() {
    auto out = std::make_shared<ParameterSet>(sums_);
    for (float& value : out->values()) value /= static_cast<float>(std::max<uint64_t>(1, steps_));
    return out;
  }

 private:
  ParameterSet sums_;   // Σ_t g_t²
  uint64_t steps_ = 0;  // τ
};

}  // namespace espalier::strategy

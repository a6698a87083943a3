#pragma once

#include <string>

#include "espalier/strategy/strategy.h"

// The pieces that the strategies which average weights have in common.
namespace espalier::strategy {

// How much a client's update counts in the mean.
struct WeightingOptions {
  std::string weighting = "samples";
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("weighting", self.weighting,
          Field("Weight of a client in the mean: its number of samples, or 1.")
              .one_of({"samples", "uniform"}));
  }
  double weight(double num_samples) const { return weighting == "uniform" ? 1.0 : num_samples; }
};

// Loads the task's model, trains it on the client's samples with the given hooks, and returns an
// update with the payload "delta" (after − before, weight 1) and the standard scalars.
Update train_locally(ClientContext& context, const Task& task, const train::FitHooks& hooks);

// Applies fn(begin, end) to each run of trainable values (weights, biases, norms, embeddings) of
// the layout.
template <class Function>
void for_trainable(const ParameterLayout& layout, Function&& fn) {
  for (const ParameterInfo& tensor : layout.tensors()) {
    if (is_trainable(tensor.role)) {
      fn(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.offset + tensor.size));
    }
  }
}

// global += mean for everything that is not trained by a server optimizer: statistics are averaged,
// counters are averaged and rounded to whole numbers.
void apply_untrained(const ParameterSet& mean, ParameterSet& global);

}  // namespace espalier::strategy

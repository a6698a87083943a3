#pragma once

#include <string>

#include "espalier/base/options.h"

namespace espalier::strategy {

// How much a client's update counts in the mean. An option of the server that travels to the client
// halves, which weigh what they send; the server refuses a weight above max(1, samples)
// (Strategy::check).
struct WeightingOptions {
  // "samples": n_k, so that every sample counts alike (FedAvg's Σ n_k Δ_k / Σ n_k). "uniform": 1,
  // so that every client does.
  std::string weighting = "samples";
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("weighting", self.weighting,
          Field("Weight of a client in the mean: its number of samples, or 1.")
              .one_of({"samples", "uniform"}));
  }
  // Of a client with so many samples, at least 0. A client without samples weighs 0 under
  // "samples"; a round of such clients alone has no mean, which is an Error.
  double weight(double num_samples) const { return weighting == "uniform" ? 1.0 : num_samples; }
};

}  // namespace espalier::strategy

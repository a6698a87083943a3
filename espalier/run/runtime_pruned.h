#pragma once

#include "espalier/base/error.h"
#include "espalier/run/runtimes.h"
#include "espalier/submodel/submodel.h"

// The physically smaller network of a model with zeros: without the units that do nothing
// (prune::live_units), which computes the same function.
namespace espalier::run {

struct PrunedModel {
  ParameterSet dense, pruned;             // weights
  std::unique_ptr<train::Trainer> whole;  // of the configuration's precision, weights loaded
  std::unique_ptr<train::Trainer> smaller;
  std::vector<int64_t> units;  // that stay, of each group
  int64_t removed = 0;         // units, of all groups
  // The largest difference of the two networks' logits, in fp32.
  double logit_difference = 0;
};

// There is no smaller network, and the dense one is whole.
class NotPrunable : public Error {
 public:
  using Error::Error;
};

// Throws NotPrunable when the model has no units that can be removed, or when the smaller network
// does not give the same logits (to 1e-4 of the largest); Error for everything else.
PrunedModel prune_model(const TrainedModel& model);

// What there is to say about it: {"units", "removed_units", "max_logit_difference", "note",
// "kept_units"}.
Json describe(const PrunedModel& pruned);

}  // namespace espalier::run

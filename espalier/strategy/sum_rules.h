#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/params/exact_sum.h"
#include "espalier/params/parameter_set.h"
#include "espalier/submodel/submodel.h"
#include "espalier/wire/task.h"

// How the exact sums of a round become means: an ordered list of rules, each a small object. The
// first gives the mean that the aggregation is about; further ones undo what the clients' update
// stages did (client/update_stages.h), in reverse.
namespace espalier::strategy {

// A payload's sum and what went into it, in the order of client numbers.
struct PayloadSum {
  struct Part {
    const submodel::Submodel* submodel;  // null: the whole model
    double weight;                       // at least 0
  };
  const std::string& name;
  const ExactAccumulator& sum;
  std::span<const Part> parts;
};

class SumRule {
 public:
  virtual ~SumRule() = default;
  // May change an update's weights before it is added. Any thread.
  virtual void admit(wire::Update& update) const { static_cast<void>(update); }
  // Whether admit() does anything.
  virtual bool reweighs() const { return false; }
  // Writes the mean, or changes what the rules before left in it. `mean` has the whole model's
  // layout; Σ weight > 0. Called from one thread, when all updates are in.
  virtual void mean(const PayloadSum& payload, ParameterSet& mean) const = 0;
};
using SumRules = std::vector<std::shared_ptr<const SumRule>>;

// Σ w·x / Σ w over all clients: a value outside a client's sub-model counts as a zero update
// (Caldas et al. 2018).
std::shared_ptr<const SumRule> weighted_mean();
// Every value is divided by the weight of the clients that trained it (HeteroFL, Diao et al. 2021).
// A value that no client covered is −0, so that adding the mean leaves every bit of it.
std::shared_ptr<const SumRule> covered_mean();
// EF21: the mean of what is trained becomes estimate + Σ x / num_clients, where the estimate is the
// mean of what all clients have said so far (absent: 0) and x are this round's corrections, all of
// weight 1. What is not trained stays the mean of who answered. `estimates` must outlive the rule.
std::shared_ptr<const SumRule> estimated_mean(const std::map<std::string, ParameterSet>& estimates,
                                              uint64_t num_clients);

}  // namespace espalier::strategy

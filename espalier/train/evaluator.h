#pragma once

#include "espalier/params/parameter_set.h"
#include "espalier/train/trainer.h"

namespace espalier::train {

// Evaluates models on the test samples that somebody holds: the server's, by threads of its own
// (workers.h), or nobody's.
class Evaluator {
 public:
  virtual ~Evaluator() = default;
  // Loss and correct predictions; the sums are added in a fixed order. The model may be a part of
  // the whole one: its layout says how many units it has. Not thread-safe.
  virtual EvalSums evaluate(const ParameterSet& model) = 0;
};

}  // namespace espalier::train

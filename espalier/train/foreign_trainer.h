#pragma once

#include <functional>
#include <memory>

#include "espalier/train/trainer.h"

namespace espalier::train {

// What a program of one's own is asked to train.
struct ForeignTask {
  ParameterSet& weights;  // as loaded; to be trained in place
  size_t num_samples;     // the client's
  const StepOptions& options;
  uint64_t seed;  // of this client in this round
  // What a strategy adds to every optimizer step (FitHooks). Null when it adds nothing; where they
  // are not null, a training that does not call them in every step is an Error.
  std::function<void(std::span<const float> weights, std::span<float> gradients)> before_step;
  std::function<void(std::span<float> weights)> after_step;
};

struct ForeignProgram {
  // Trains `task.weights`; what it knows comes back. Loss and accuracy are NaN, steps and samples 0
  // where it does not say: then steps are those of the options, and samples all of them in every
  // epoch. Multiply-accumulates that nobody says are 0. Throws Error when it fails.
  std::function<FitResult(ForeignTask& task)> fit;
  // Loss and correct predictions over all test samples. Null: it evaluates nothing.
  std::function<EvalSums(const ParameterSet& weights)> evaluate;
};

// Has a model trained by somebody else's program, in whatever framework that is. `engine` is the
// same model here, for layout and initial weights. The data sets that it is given are not looked
// at: only the program knows the samples. Throws Error for what the contract has and such a program
// has not: narrower widths within a step, teachers, optimizers that go on, statistics, features.
std::unique_ptr<Trainer> make_foreign_trainer(std::unique_ptr<Trainer> engine,
                                              ForeignProgram program);

}  // namespace espalier::train

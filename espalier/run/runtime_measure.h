#pragma once

#include <vector>

#include "espalier/run/runtimes.h"

// Figures of several forms of one model, taken side by side.
namespace espalier::run {

// One form: a trainer with its weights loaded, and these weights.
struct Variant {
  std::string name;
  train::Trainer* trainer;
  const ParameterSet* weights;
};

// For each variant, by name: accuracy, loss and the figures of single classes (class_figures.h) on
// all test samples, parameters, parameters that are not zero, bytes as safetensors,
// multiply-accumulates per sample, and the seconds that one sample takes, alone and in a batch of
// min(eval_batch, test samples): median and 95th percentile. The variants take turns at every
// repetition, so that whatever else the machine does hits all alike. One thread computes. With two
// variants, "ratio" is the second's figures over the first's.
Json measure(const TrainedModel& model, const std::vector<Variant>& variants);

// Adds second over first to `variants`, which holds two, for every number but those of accuracy and
// loss.
void add_ratio(Json& variants);

// The largest difference of the two trainers' logits on the first test samples (1,000 at most), and
// the largest logit of the first one.
struct LogitDifference {
  double difference = 0, largest = 0;
};
LogitDifference compare_logits(const TrainedModel& model, train::Trainer& first,
                               train::Trainer& second);

}  // namespace espalier::run

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/train/trainer.h"

namespace espalier::train {

// 0, 1, …: every sample of a data set of this size.
std::vector<uint32_t> all_samples(size_t count);

// Loss and correct predictions of the trainer's loaded weights on the samples, `batch_size` ≥ 1 at
// a time; the sums are added in the samples' order. Without samples all sums are 0. Neither weights
// nor statistics change; `samples` are indices into `dataset`. Uses the trainer, so it is as little
// thread-safe as that.
EvalSums evaluate(Trainer& trainer, const data::Dataset& dataset, std::span<const uint32_t> samples,
                  size_t batch_size);

}  // namespace espalier::train

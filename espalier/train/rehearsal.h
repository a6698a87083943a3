#pragma once

#include <cstddef>

#include "espalier/data/dataset.h"
#include "espalier/data/partition.h"
#include "espalier/train/step_options.h"
#include "espalier/train/trainer.h"

// What would fail at clients, found before a run.
namespace espalier::train {

// Throws Error when options.drop_last would leave a client without any batch: names the clients,
// their samples and what to do.
void check_batches(const data::Partition& partition, const StepOptions& options);

// Tries a model that cannot be asked what it accepts (Trainer::opaque; others are taken at their
// word): from `weights`, one step on the largest batch that any client has, one on every kind of
// last batch beginning with the smallest, until one is done, and evaluations of the largest and the
// last batch of test samples. Only batches that occur are tried, on the samples that are in them
// for some client. Throws Error that names the batch, the clients that have it and what to do.
// Leaves `weights` and the statistics loaded.
struct Rehearsal {
  const data::DataSource& data;
  const data::Partition& partition;
  const StepOptions& options;  // augmentation included
  size_t eval_batch;
};
void rehearse(Trainer& trainer, const ParameterSet& weights, const Rehearsal& with);

}  // namespace espalier::train

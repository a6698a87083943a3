#pragma once

#include <cstdint>
#include <string>

#include "espalier/nn/graph.h"
#include "espalier/params/layout.h"
#include "espalier/run/run_config.h"
#include "espalier/train/trainer.h"

// What a run takes, said before it is paid.
namespace espalier::run {

// Of the samples, their labels and owners.
uint64_t bytes_of(const data::Dataset& set);

// Bytes of the least that a simulation holds at once. What strategies keep besides (momenta,
// estimates, masks, states of clients) is not in it.
struct RunSizes {
  uint64_t parameters = 0;  // trained values
  uint64_t values = 0;      // and everything else that travels: statistics, counters
  uint64_t message = 0;     // of the model or an update in float32
  uint64_t server = 0;      // the model, its encoded form, a round's exact sums
  uint64_t client = 0;      // one at a time: weights, gradients, update, activations of a batch
  uint64_t data = 0;        // the samples in memory
  uint64_t total(size_t num_threads) const { return server + data + num_threads * client; }
};
// `activations`: Trainer::training_bytes(), or 0 where it is not known yet.
RunSizes run_sizes(const ParameterLayout& layout, const data::DataSource& data,
                   uint64_t activations);

// Memory of this machine that this process may use: the smaller of what is built in and what its
// control group allows.
uint64_t machine_memory();

// Throws Error with the numbers when the sizes exceed `memory` (0: not known, nothing is refused).
void require_memory(const std::string& model, const RunSizes& sizes, size_t num_threads,
                    uint64_t memory);

}  // namespace espalier::run

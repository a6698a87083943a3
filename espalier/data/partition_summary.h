#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/data/partition.h"

namespace espalier::data {

// What each client holds: the numbers behind `espalier data partition` and the report's picture of
// a split.
struct PartitionSummary {
  uint64_t num_clients = 0;      // declared
  uint64_t counted_clients = 0;  // the first so many are in class_counts
  size_t num_classes = 0;
  std::vector<uint32_t> class_counts;  // counted_clients × num_classes samples
  std::vector<uint64_t> samples;       // per counted client

  uint64_t min_samples = 0, max_samples = 0;
  double mean_samples = 0;
  // Over the counted clients, weighted by their samples: ½ Σ_c |share of class c at the client −
  // share of c overall|, 0 for iid and near 1 for clients of one class among many.
  double label_skew = 0;

  uint32_t count(uint64_t client, size_t label) const {
    return class_counts[client * num_classes + label];
  }
};

// Reads the labels of the first `max_clients` clients (all when 0).
PartitionSummary summarize(const Partition& partition, const Dataset& dataset,
                           uint64_t max_clients = 0);

// {"clients", "samples": {"min", "mean", "max"}, "label_skew", "class_counts": [[…] per counted
// client]}
Json to_json(const PartitionSummary& summary);

// A few lines of figures, then one line per counted client, at most `max_rows`: its samples, its
// number of classes and a histogram with a block per class, as high as the class's share of the
// client's largest class.
std::string to_text(const PartitionSummary& summary, size_t max_rows);

}  // namespace espalier::data

#include "espalier/run/sizes.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "espalier/base/error.h"
#include "espalier/report/human.h"

namespace espalier::run {

uint64_t bytes_of(const data::Dataset& set) {
  return set.pixels.size() + 4 * (set.floats.size() + set.tokens.size() + set.labels.size() +
                                  set.client_of_sample.size());
}

RunSizes run_sizes(const ParameterLayout& layout, const data::DataSource& data,
                   uint64_t activations) {
  RunSizes sizes;
  sizes.parameters = static_cast<uint64_t>(layout.num_trainable());
  sizes.values = static_cast<uint64_t>(layout.size());
  sizes.message = 4 * sizes.values;
  sizes.server = (4 + 4 + 8) * sizes.values;
  // The task's weights, and the replica's weights and gradients with what it works in; the update
  // is written where the task's weights were read.
  sizes.client = 8 * sizes.values + std::max(8 * sizes.values, activations);
  sizes.data = bytes_of(*data.train) + bytes_of(*data.test);
  return sizes;
}

uint64_t machine_memory() {
  const long pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
  uint64_t memory =
      pages > 0 && page > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page) : 0;
  for (const char* file :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    uint64_t limit = 0;  // "max" is no number
    if (std::ifstream(file) >> limit && limit > 0) memory = std::min(memory, limit);
  }
  return memory;
}

void require_memory(const std::string& model, const RunSizes& sizes, size_t num_threads,
                    uint64_t memory) {
  const uint64_t needed = sizes.total(num_threads);
  if (memory == 0 || needed <= memory) return;
  const auto text = [](uint64_t bytes) { return report::human_bytes(static_cast<double>(bytes)); };
  fail("model", "model '", model, "' has ",
       report::human_count(static_cast<double>(sizes.parameters)), " parameters (",
       text(sizes.message), " per message): a run takes at least ", text(needed), " (server ",
       text(sizes.server), ", ", num_threads, num_threads == 1 ? " client" : " clients",
       " at a time ", text(sizes.client), " each, data ", text(sizes.data), "), this machine has ",
       text(memory), "; use a smaller model, a smaller train.batch_size or fewer --threads");
}

}  // namespace espalier::run

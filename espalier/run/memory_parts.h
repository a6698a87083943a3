#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "espalier/base/memory_use.h"
#include "espalier/data/dataset.h"

// What the peak of a process's memory was for.
namespace espalier::run {

// What was measured.
struct MemoryCounts {
  uint64_t peak = 0;          // resident, as the system has counted it
  BlockUse blocks;            // large buffers when they were most
  ResidentBytes resident;     // by kind of mapping; the heap when it was largest
  uint64_t data = 0;          // bytes of the samples, wherever they lie
  uint64_t data_in_heap = 0;  // of these in the heap
};
MemoryCounts count_memory(const data::DataSource& data);

// By name, in the order of the documents, none negative: "data" (exactly the samples), the uses of
// large buffers, "recycled" (those kept for the next client), "heap" (the round's sums, encoded
// messages and all that is small), "code" (the program and its libraries), "other" (what is left of
// the peak: stacks, oneDNN's generated code, what foreign libraries take themselves). They add up
// to the peak, or to more where buffers were never written to or the large ones and the heap were
// largest at different times.
using MemoryParts = std::vector<std::pair<std::string_view, uint64_t>>;
MemoryParts memory_parts(const MemoryCounts& counts);

}  // namespace espalier::run

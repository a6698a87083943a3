#include "espalier/run/memory_parts.h"

#include <algorithm>

#include "espalier/base/clock.h"
#include "espalier/base/large_blocks.h"
#include "espalier/run/sizes.h"

namespace espalier::run {

namespace {

template <class T>
uint64_t in_heap(const data::Values<T>& values) {
  const uint64_t bytes = values.size() * sizeof(T);
  return values.borrowed() || bytes >= kLargeBlock ? 0 : bytes;
}

uint64_t in_heap(const data::Dataset& set) {
  return in_heap(set.pixels) + in_heap(set.floats) + in_heap(set.tokens) +
         sizeof(int32_t) * (set.labels.size() + set.client_of_sample.size());
}

}  // namespace

MemoryCounts count_memory(const data::DataSource& data) {
  return {.peak = peak_rss_bytes(),
          .blocks = peak_block_use(),
          .resident = peak_resident_bytes(),
          .data = bytes_of(*data.train) + bytes_of(*data.test),
          .data_in_heap = in_heap(*data.train) + in_heap(*data.test)};
}

MemoryParts memory_parts(const MemoryCounts& counts) {
  MemoryParts parts = {{"data", counts.data}};
  for (const MemoryUse use : {MemoryUse::kWeights, MemoryUse::kActivations, MemoryUse::kScratch,
                              MemoryUse::kServer, MemoryUse::kUpdates}) {
    const auto index = static_cast<size_t>(use);
    parts.emplace_back(kMemoryUseNames[index], counts.blocks.bytes[index]);
  }
  parts.emplace_back("recycled", counts.blocks.recycled);
  parts.emplace_back("code", counts.resident.files);
  uint64_t known = 0;
  for (const auto& part : parts) known += part.second;
  const uint64_t rest = counts.peak - std::min(counts.peak, known);
  // The heap may have been largest at another time than the blocks, while data were read.
  const uint64_t heap =
      std::min(rest, counts.resident.heap - std::min(counts.resident.heap, counts.data_in_heap));
  parts.emplace_back("heap", heap);
  parts.emplace_back("other", rest - heap);
  return parts;
}

}  // namespace espalier::run

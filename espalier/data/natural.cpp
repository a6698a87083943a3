#include "espalier/base/error.h"
#include "espalier/data/partition_kinds.h"

namespace espalier::data {

std::unique_ptr<Partition> make_natural(const PartitionOptions& options, const Dataset& dataset,
                                        Key) {
  if (dataset.client_of_sample.empty()) {
    fail("data/partition", "the data set ", dataset.name,
         " has no clients of its own; choose another data.partition.name (iid, dirichlet or "
         "shards)");
  }
  std::vector<std::vector<uint32_t>> members(dataset.client_names.size());
  for (size_t i = 0; i < dataset.size(); ++i) {
    members[dataset.client_of_sample[i]].push_back(static_cast<uint32_t>(i));
  }
  std::erase_if(members, [](const auto& samples) { return samples.empty(); });
  if (options.clients > 0 && static_cast<uint64_t>(options.clients) < members.size()) {
    members.resize(static_cast<size_t>(options.clients));
  }
  return std::make_unique<ListPartition>(members);
}

}  // namespace espalier::data

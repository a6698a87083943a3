#include "espalier/base/error.h"
#include "espalier/data/partition_kinds.h"

namespace espalier::data {

std::unique_ptr<Partition> make_natural(const PartitionOptions& options, const Dataset& dataset,
                                        Key, std::vector<std::string>& notes) {
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
  const auto clients = static_cast<uint64_t>(options.clients);
  if (clients > members.size() && !is_default(&PartitionOptions::clients, options)) {
    notes.push_back(concat("[data/partition] only ", members.size(),
                           " owners have training samples, fewer than data.partition.clients = ",
                           clients, "; all of them take part"));
  }
  if (clients > 0 && clients < members.size()) {
    if (is_default(&PartitionOptions::clients, options)) {
      notes.push_back(concat("[data/partition] the first ", clients, " of ", members.size(),
                             " owners take part; data.partition.clients = 0 takes all"));
    }
    members.resize(clients);
  }
  return std::make_unique<ListPartition>(members);
}

}  // namespace espalier::data

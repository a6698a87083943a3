#pragma once

#include <vector>

#include "espalier/data/partition.h"

// The partitions behind the table of partition.cpp, one file each, and what they share.
namespace espalier::data {

// Sample lists that are held in memory: 4 bytes per sample.
class ListPartition : public Partition {
 public:
  // `members[k]` are the samples of client k, in any order; no list may be empty.
  explicit ListPartition(const std::vector<std::vector<uint32_t>>& members);

  uint64_t num_clients() const override { return offsets_.size() - 1; }
  uint64_t num_samples(uint64_t client) const override;
  void samples(uint64_t client, std::vector<uint32_t>& out) const override;
  uint64_t max_samples() const override { return max_samples_; }

 private:
  std::vector<uint64_t> offsets_;
  std::vector<uint32_t> samples_;
  uint64_t max_samples_ = 0;
};

// The samples of each class in a random order; classes without samples have an empty list.
std::vector<std::vector<uint32_t>> shuffled_by_class(const Dataset& dataset, Key key);

// Whether an option has the value that nobody needs to write. Only such numbers give way.
bool is_default(int64_t PartitionOptions::*option, const PartitionOptions& options);
// The note that says so.
void note_lowered(const std::string& name, int64_t from, int64_t to, const Dataset& dataset,
                  std::vector<std::string>& notes);

// The factories. `notes` receives what a person should know of how the options were understood.

// iid: a keyed permutation cut into equal parts (sizes differ by one at most); with
// samples_per_client, every client draws its own distinct samples when asked, so that the partition
// is O(1) memory for any number of clients.
std::unique_ptr<Partition> make_iid(const PartitionOptions& options, const Dataset& dataset,
                                    Key key, std::vector<std::string>& notes);

// dirichlet: for each class, shares ~ Dir(alpha) over the clients (Hsu, Qi, Brown 2019; in the
// balanced form of Yurochkin et al. 2019 and Li et al. 2022): a client that already holds N/K
// samples when a class is dealt gets none of it, its shares going to the others in proportion, and
// everything is drawn again until every client has min_samples. Without `cap` shares stay as they
// are drawn. We bound the tries and say what to change; each sample is used exactly once.
std::unique_ptr<Partition> make_dirichlet(const PartitionOptions& options, const Dataset& dataset,
                                          Key key, std::vector<std::string>& notes);

// shards: every client holds samples of exactly classes_per_client distinct classes (after McMahan
// et al. 2017). Their shards are cut from the sorted data, so that a client can have fewer classes
// or a shard two; ours are cut per class: K·k/C shards of each class (the remainder goes to
// randomly chosen classes), each sample used exactly once.
std::unique_ptr<Partition> make_shards(const PartitionOptions& options, const Dataset& dataset,
                                       Key key, std::vector<std::string>& notes);

// natural: the data set's own clients. With `clients` > 0, at most the first so many; owners
// without training samples are left out.
std::unique_ptr<Partition> make_natural(const PartitionOptions& options, const Dataset& dataset,
                                        Key key, std::vector<std::string>& notes);

}  // namespace espalier::data

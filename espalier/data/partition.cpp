#include "espalier/data/partition.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/base/named_rows.h"
#include "espalier/data/partition_kinds.h"

namespace espalier::data {

const std::vector<PartitionRow>& partition_rows() {
  static const std::vector<PartitionRow> rows = {
      {"iid", "Every client holds an even, random part; or draws samples_per_client of its own.",
       make_iid},
      {"dirichlet", "Class shares per client drawn from Dirichlet(alpha): uneven labels and sizes.",
       make_dirichlet},
      {"shards", "Every client holds exactly classes_per_client distinct classes.", make_shards},
      {"natural",
       "The data set's own clients (leaf, safetensors with `client`, synthetic with clients).",
       make_natural},
  };
  return rows;
}

std::unique_ptr<Partition> make_partition(const PartitionOptions& options, const Dataset& dataset,
                                          Key key, std::vector<std::string>* notes) {
  const PartitionRow& row = find_row(partition_rows(), options.name, "data/partition", "partition");
  if (options.clients < 1 && options.name != "natural") {
    fail("data/partition", "expected at least one client for the partition ", options.name,
         ", got ", options.clients, "; set data.partition.clients");
  }
  std::vector<std::string> found;
  auto partition = row.make(options, dataset, key, found);
  if (notes != nullptr) notes->insert(notes->end(), found.begin(), found.end());
  return partition;
}

bool is_default(int64_t PartitionOptions::*option, const PartitionOptions& options) {
  return options.*option == PartitionOptions().*option;
}

void note_lowered(const std::string& name, int64_t from, int64_t to, const Dataset& dataset,
                  std::vector<std::string>& notes) {
  notes.push_back(concat("[data/partition] ", name, " is lowered from its default ", from, " to ",
                         to, ", for which the ", dataset.size(),
                         " training samples suffice; set data.partition.", name));
}

ListPartition::ListPartition(const std::vector<std::vector<uint32_t>>& members) {
  size_t total = 0;
  for (const auto& list : members) total += list.size();
  samples_.reserve(total);
  offsets_.reserve(members.size() + 1);
  offsets_.push_back(0);
  for (const auto& list : members) {
    ESPALIER_CHECK(!list.empty());
    samples_.insert(samples_.end(), list.begin(), list.end());
    std::sort(samples_.begin() + static_cast<std::ptrdiff_t>(offsets_.back()), samples_.end());
    offsets_.push_back(samples_.size());
    max_samples_ = std::max<uint64_t>(max_samples_, list.size());
  }
}

uint64_t ListPartition::num_samples(uint64_t client) const {
  ESPALIER_CHECK(client < num_clients(), "client ", client, " of ", num_clients());
  return offsets_[client + 1] - offsets_[client];
}

void ListPartition::samples(uint64_t client, std::vector<uint32_t>& out) const {
  const uint64_t count = num_samples(client);
  const auto* first = samples_.data() + offsets_[client];
  out.assign(first, first + count);
}

std::vector<std::vector<uint32_t>> shuffled_by_class(const Dataset& dataset, Key key) {
  std::vector<std::vector<uint32_t>> classes(static_cast<size_t>(dataset.num_classes));
  for (size_t i = 0; i < dataset.size(); ++i) {
    classes[static_cast<size_t>(dataset.labels[i])].push_back(static_cast<uint32_t>(i));
  }
  for (size_t c = 0; c < classes.size(); ++c) {
    Stream stream(key.child(c));
    stream.shuffle(std::span(classes[c]));
  }
  return classes;
}

}  // namespace espalier::data

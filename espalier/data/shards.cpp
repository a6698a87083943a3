#include <algorithm>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/data/partition_kinds.h"

namespace espalier::data {

namespace {

// Chooses `count` distinct classes for one client, `clients_left` clients (this one included) being
// without. `shards[c]` shards of class c are left; their sum is clients_left·count and none exceeds
// clients_left. A class with clients_left shards must be taken now, as nobody may take it twice;
// the others are drawn in proportion to what is left of them. Both conditions then hold for the
// next client, so that the assignment always completes.
std::vector<size_t> choose_classes(Stream& stream, std::vector<uint64_t>& shards, size_t count,
                                   uint64_t clients_left) {
  std::vector<size_t> chosen;
  std::vector<uint64_t> weights(shards.size());
  for (size_t c = 0; c < shards.size(); ++c) {
    if (shards[c] == clients_left)
      chosen.push_back(c);
    else
      weights[c] = shards[c];
  }
  uint64_t total = std::accumulate(weights.begin(), weights.end(), uint64_t{0});
  while (chosen.size() < count) {
    uint64_t position = stream.below(total);
    size_t c = 0;
    while (position >= weights[c]) position -= weights[c++];
    chosen.push_back(c);
    total -= weights[c];
    weights[c] = 0;
  }
  for (const size_t c : chosen) --shards[c];
  return chosen;
}

}  // namespace

std::unique_ptr<Partition> make_shards(const PartitionOptions& options, const Dataset& dataset,
                                       Key key, std::vector<std::string>& notes) {
  const auto clients = static_cast<uint64_t>(options.clients);
  const auto per_client = static_cast<uint64_t>(options.classes_per_client);
  auto classes = shuffled_by_class(dataset, key.child(0));
  std::erase_if(classes, [](const auto& samples) { return samples.empty(); });
  if (per_client > classes.size() && is_default(&PartitionOptions::classes_per_client, options)) {
    PartitionOptions fewer = options;
    fewer.classes_per_client = static_cast<int64_t>(classes.size());
    note_lowered("classes_per_client", options.classes_per_client, fewer.classes_per_client,
                 dataset, notes);
    return make_shards(fewer, dataset, key, notes);
  }
  if (per_client > classes.size()) {
    fail("data/partition", "expected classes_per_client of at most ", classes.size(),
         " (the classes of the training samples), got ", per_client,
         "; lower data.partition.classes_per_client");
  }
  // Clients of whom every class has a shard, whichever classes get one more.
  const auto smallest =
      std::min_element(classes.begin(), classes.end(),
                       [](const auto& a, const auto& b) { return a.size() < b.size(); });
  PartitionOptions fewer = options;
  fewer.clients = static_cast<int64_t>(smallest->size() * classes.size() / per_client);
  const bool may_lower =
      is_default(&PartitionOptions::clients, options) && fewer.clients < options.clients;
  const auto lowered = [&] {
    note_lowered("clients", options.clients, fewer.clients, dataset, notes);
    return make_shards(fewer, dataset, key, notes);
  };
  if (clients > dataset.size() && may_lower) return lowered();
  if (clients > dataset.size()) {
    fail("data/partition", "expected at most ", dataset.size(),
         " clients (the training samples), got ", clients, "; lower data.partition.clients");
  }
  if (clients * per_client < classes.size()) {
    fail("data/partition", "expected clients × classes_per_client of at least ", classes.size(),
         " (the classes of the training samples), got ", clients, " × ", per_client,
         "; raise data.partition.clients or data.partition.classes_per_client");
  }
  Stream stream(key.child(1));
  std::vector<uint64_t> shards(classes.size(), clients * per_client / classes.size());
  std::vector<size_t> order(classes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  stream.shuffle(std::span(order));
  for (size_t i = 0; i < clients * per_client % classes.size(); ++i) ++shards[order[i]];
  for (size_t c = 0; c < classes.size(); ++c) {
    if (classes[c].size() < shards[c] && may_lower) return lowered();
    if (classes[c].size() < shards[c]) {
      fail("data/partition", "a class with ", classes[c].size(),
           " training samples cannot be cut into ", shards[c],
           " shards; lower data.partition.clients or data.partition.classes_per_client");
    }
  }
  const std::vector<uint64_t> shards_of_class = shards;
  std::vector<std::vector<uint32_t>> members(clients);
  for (uint64_t k = 0; k < clients; ++k) {
    for (const size_t c : choose_classes(stream, shards, per_client, clients - k)) {
      const uint64_t shard = shards[c], size = classes[c].size(), parts = shards_of_class[c];
      const auto begin = static_cast<std::ptrdiff_t>(shard * size / parts);
      const auto end = static_cast<std::ptrdiff_t>((shard + 1) * size / parts);
      members[k].insert(members[k].end(), classes[c].begin() + begin, classes[c].begin() + end);
    }
  }
  return std::make_unique<ListPartition>(members);
}

}  // namespace espalier::data

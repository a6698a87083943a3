#include <algorithm>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/data/partition_kinds.h"

namespace espalier::data {

namespace {

constexpr uint64_t kFewClients = 10;  // of a data set that is too small for the default

class LazyPartition : public Partition {
 public:
  LazyPartition(uint64_t clients, uint64_t samples_per_client, uint64_t dataset_size, Key key)
      : clients_(clients),
        samples_per_client_(samples_per_client),
        dataset_size_(dataset_size),
        key_(key) {}

  uint64_t num_clients() const override { return clients_; }
  uint64_t num_samples(uint64_t) const override { return samples_per_client_; }
  uint64_t max_samples() const override { return samples_per_client_; }
  void samples(uint64_t client, std::vector<uint32_t>& out) const override {
    ESPALIER_CHECK(client < clients_, "client ", client, " of ", clients_);
    const auto drawn =
        sample_without_replacement(key_.child(client), dataset_size_, samples_per_client_);
    out.resize(drawn.size());
    for (size_t i = 0; i < drawn.size(); ++i) out[i] = static_cast<uint32_t>(drawn[i]);
  }

 private:
  uint64_t clients_, samples_per_client_, dataset_size_;
  Key key_;
};

}  // namespace

std::unique_ptr<Partition> make_iid(const PartitionOptions& options, const Dataset& dataset,
                                    Key key, std::vector<std::string>& notes) {
  const auto clients = static_cast<uint64_t>(options.clients);
  const uint64_t size = dataset.size();
  if (options.samples_per_client == 0 && clients > size &&
      is_default(&PartitionOptions::clients, options)) {
    PartitionOptions fewer = options;
    fewer.clients = static_cast<int64_t>(std::min<uint64_t>(size, kFewClients));
    note_lowered("clients", options.clients, fewer.clients, dataset, notes);
    return make_iid(fewer, dataset, key, notes);
  }
  if (const auto owners = dataset.owners(); owners.size() > 1) {
    notes.push_back(concat("[data/partition] the data set has ", owners.size(),
                           " owners, whom the partition iid does not look at; "
                           "data.partition.name = \"natural\" makes them the clients"));
  }
  if (options.samples_per_client > 0) {
    const auto per_client = static_cast<uint64_t>(options.samples_per_client);
    if (per_client > size) {
      fail("data/partition", "expected samples_per_client of at most ", size,
           " (the training samples), got ", per_client,
           "; lower data.partition.samples_per_client");
    }
    return std::make_unique<LazyPartition>(clients, per_client, size, key);
  }
  if (clients > size) {
    fail("data/partition", "expected at most ", size, " clients (one training sample each), got ",
         clients, "; lower data.partition.clients or set data.partition.samples_per_client");
  }
  std::vector<uint32_t> order(size);
  std::iota(order.begin(), order.end(), 0u);
  Stream stream(key);
  stream.shuffle(std::span(order));
  std::vector<std::vector<uint32_t>> members(clients);
  for (uint64_t k = 0; k < clients; ++k) {
    const auto begin = static_cast<std::ptrdiff_t>(k * size / clients);
    const auto end = static_cast<std::ptrdiff_t>((k + 1) * size / clients);
    members[k].assign(order.begin() + begin, order.begin() + end);
  }
  return std::make_unique<ListPartition>(members);
}

}  // namespace espalier::data

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/data/partition_kinds.h"

namespace espalier::data {

namespace {

// How many samples of one class each client gets. `held` is what the clients have of earlier
// classes.
std::vector<uint64_t> draw_class(Stream& stream, double alpha, uint64_t class_size, uint64_t total,
                                 const std::vector<uint64_t>& held) {
  const size_t clients = held.size();
  std::vector<double> shares = stream.dirichlet(alpha, clients);
  double sum = 0;
  std::vector<size_t> open;  // clients that hold fewer than total/clients samples; at least one as
                             // long as samples remain
  for (size_t k = 0; k < clients; ++k) {
    if (held[k] * clients >= total) {
      shares[k] = 0;
    } else {
      open.push_back(k);
      sum += shares[k];
    }
  }
  if (!(sum >
        0)) {  // All the mass fell on full clients (small alpha): one open client takes the class.
    const size_t chosen = open[stream.below(open.size())];
    shares[chosen] = sum = 1;
  }
  std::vector<uint64_t> counts(clients, 0);
  double cumulative = 0;
  uint64_t given = 0;
  size_t last = 0;
  for (size_t k = 0; k < clients; ++k) {
    if (!(shares[k] > 0)) continue;
    cumulative += shares[k] / sum;
    const auto until =
        std::min(static_cast<uint64_t>(cumulative * static_cast<double>(class_size)), class_size);
    counts[k] = until - given;
    given = until;
    last = k;
  }
  counts[last] += class_size - given;  // what rounding left over
  return counts;
}

}  // namespace

std::unique_ptr<Partition> make_dirichlet(const PartitionOptions& options, const Dataset& dataset,
                                          Key key) {
  const auto clients = static_cast<uint64_t>(options.clients);
  const auto min_samples = static_cast<uint64_t>(options.min_samples);
  const uint64_t total = dataset.size();
  if (min_samples > total / clients) {
    fail("data/partition", "expected clients × min_samples of at most ", total,
         " (the training samples), got ", clients, " × ", min_samples,
         "; lower data.partition.clients or data.partition.min_samples");
  }
  const auto classes = shuffled_by_class(dataset, key.child(0));
  const uint64_t draws = std::max<uint64_t>(clients * classes.size(), 1);
  // Enough for settings that succeed once in a few hundred tries, and a few seconds at most for
  // those that never do.
  const uint64_t max_tries = std::clamp<uint64_t>(20'000'000 / draws, 20, 5'000);
  for (uint64_t attempt = 0; attempt < max_tries; ++attempt) {
    Stream stream(key.child(1).child(attempt));
    std::vector<uint64_t> held(clients, 0);
    std::vector<std::vector<uint64_t>> counts;
    for (const auto& samples : classes) {
      counts.push_back(samples.empty()
                           ? std::vector<uint64_t>(clients, 0)
                           : draw_class(stream, options.alpha, samples.size(), total, held));
      for (size_t k = 0; k < clients; ++k) held[k] += counts.back()[k];
    }
    if (*std::min_element(held.begin(), held.end()) < min_samples) continue;
    std::vector<std::vector<uint32_t>> members(clients);
    for (size_t c = 0; c < classes.size(); ++c) {
      auto next = classes[c].begin();
      for (size_t k = 0; k < clients; ++k) {
        const auto end = next + static_cast<std::ptrdiff_t>(counts[c][k]);
        members[k].insert(members[k].end(), next, end);
        next = end;
      }
    }
    return std::make_unique<ListPartition>(members);
  }
  fail("data/partition", "no Dirichlet(", options.alpha, ") split of ", total, " samples among ",
       clients, " clients gave every client ", min_samples, " samples in ", max_tries,
       " tries; raise data.partition.alpha, or lower data.partition.min_samples or "
       "data.partition.clients");
}

}  // namespace espalier::data

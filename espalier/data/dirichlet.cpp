#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/data/partition_kinds.h"

namespace espalier::data {

namespace {

// How many samples of one class each client gets. `held` is what the clients have of earlier
// classes; with `cap`, those that hold total/clients of them get none of this one.
std::vector<uint64_t> draw_class(Stream& stream, const PartitionOptions& options,
                                 uint64_t class_size, uint64_t total,
                                 const std::vector<uint64_t>& held) {
  const size_t clients = held.size();
  std::vector<double> shares = stream.dirichlet(options.alpha, clients);
  double sum = 0;
  std::vector<size_t> open;  // clients that may get samples; at least one as long as samples remain
  for (size_t k = 0; k < clients; ++k) {
    if (options.cap && held[k] * clients >= total) {
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

// One draw: the samples of each class that each client gets (class × client), and what the client
// with the fewest has of all classes.
struct Draw {
  std::vector<std::vector<uint64_t>> counts;
  uint64_t smallest = 0;
};
Draw draw(Key key, const PartitionOptions& options,
          const std::vector<std::vector<uint32_t>>& classes, uint64_t total) {
  const auto clients = static_cast<size_t>(options.clients);
  Stream stream(key);
  std::vector<uint64_t> held(clients, 0);
  Draw found;
  for (const auto& samples : classes) {
    found.counts.push_back(samples.empty()
                               ? std::vector<uint64_t>(clients, 0)
                               : draw_class(stream, options, samples.size(), total, held));
    for (size_t k = 0; k < clients; ++k) held[k] += found.counts.back()[k];
  }
  found.smallest = *std::min_element(held.begin(), held.end());
  return found;
}

std::unique_ptr<Partition> deal(const Draw& draw, const std::vector<std::vector<uint32_t>>& classes,
                                size_t clients) {
  std::vector<std::vector<uint32_t>> members(clients);
  for (size_t c = 0; c < classes.size(); ++c) {
    auto next = classes[c].begin();
    for (size_t k = 0; k < clients; ++k) {
      const auto end = next + static_cast<std::ptrdiff_t>(draw.counts[c][k]);
      members[k].insert(members[k].end(), next, end);
      next = end;
    }
  }
  return std::make_unique<ListPartition>(members);
}

// Defaults that the data set is too small for, lowered: the number of clients first, so that each
// may have twice the minimum, then the minimum.
PartitionOptions fitting(const PartitionOptions& options, const Dataset& dataset,
                         std::vector<std::string>& notes) {
  PartitionOptions fitted = options;
  const auto total = static_cast<int64_t>(dataset.size());
  const auto too_many = [&] { return fitted.min_samples > total / fitted.clients; };
  if (too_many() && is_default(&PartitionOptions::clients, options)) {
    fitted.clients = std::max<int64_t>(1, total / 2 / options.min_samples);
    note_lowered("clients", options.clients, fitted.clients, dataset, notes);
  }
  if (too_many() && is_default(&PartitionOptions::min_samples, options)) {
    fitted.min_samples = std::max<int64_t>(1, total / 2 / fitted.clients);
    note_lowered("min_samples", options.min_samples, fitted.min_samples, dataset, notes);
  }
  return fitted;
}

}  // namespace

std::unique_ptr<Partition> make_dirichlet(const PartitionOptions& given, const Dataset& dataset,
                                          Key key, std::vector<std::string>& notes) {
  const PartitionOptions options = fitting(given, dataset, notes);
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
  Draw best;
  for (uint64_t attempt = 0; attempt < max_tries; ++attempt) {
    Draw found = draw(key.child(1).child(attempt), options, classes, total);
    if (found.smallest >= min_samples) return deal(found, classes, clients);
    if (found.smallest > best.smallest) best = std::move(found);
  }
  // A minimum that nobody asked for gives way.
  if (best.smallest > 0 && is_default(&PartitionOptions::min_samples, given)) {
    notes.push_back(concat("[data/partition] in ", max_tries,
                           " draws some client always had fewer "
                           "than min_samples = ",
                           min_samples,
                           "; the split that is used gives "
                           "every client ",
                           best.smallest, " or more; raise alpha for more"));
    return deal(best, classes, clients);
  }
  fail("data/partition", "no Dirichlet(", options.alpha, ") split of ", total, " samples among ",
       clients, " clients gave every client ", min_samples, " samples in ", max_tries,
       " tries; raise data.partition.alpha, or lower data.partition.min_samples or "
       "data.partition.clients");
}

}  // namespace espalier::data

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/base/random.h"
#include "espalier/data/dataset.h"

namespace espalier::data {

// [data.partition]
struct PartitionOptions {
  std::string name = "iid";
  int64_t clients = 100;
  double alpha = 0.5;
  int64_t classes_per_client = 2;
  int64_t samples_per_client = 0;
  int64_t min_samples = 10;
  bool cap = true;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("name", self.name, Field("How the training samples are divided among the clients."));
    visit(
        "clients", self.clients,
        Field("Number of clients; natural partitions take all owners when 0. The default of 100 is "
              "lowered for a data set that is too small for it.")
            .at_least(0));
    constexpr const char* kDirichlet = "data.partition.name = \"dirichlet\"";
    const bool dirichlet = self.name == "dirichlet";
    visit("alpha", self.alpha,
          Field("dirichlet: concentration; smaller is more uneven.")
              .above(0)
              .needs(dirichlet, kDirichlet));
    visit("classes_per_client", self.classes_per_client,
          Field("shards: distinct classes each client holds.")
              .at_least(1)
              .needs(self.name == "shards", "data.partition.name = \"shards\""));
    visit("samples_per_client", self.samples_per_client,
          Field("iid: each client draws this many distinct samples, independently of the others, "
                "so that any number of "
                "clients can be declared; 0 divides the data set evenly.")
              .at_least(0)
              .needs(self.name == "iid", "data.partition.name = \"iid\""));
    visit("min_samples", self.min_samples,
          Field("dirichlet: redrawn until every client has this many samples. The default of 10 is "
                "lowered where it cannot be had.")
              .at_least(1)
              .needs(dirichlet, kDirichlet));
    visit(
        "cap", self.cap,
        Field("dirichlet: a client that holds its even share of the samples gets no more of later "
              "classes; false draws every class's shares as they fall (plain Dirichlet).")
            .needs(dirichlet, kDirichlet));
  }
};

// Who holds which training samples. A lazy partition (iid with samples_per_client) costs nothing
// per declared client.
class Partition {
 public:
  virtual ~Partition() = default;
  virtual uint64_t num_clients() const = 0;
  virtual uint64_t num_samples(uint64_t client) const = 0;
  // Replaces `out` with the client's sample indices, in increasing order. Any thread.
  virtual void samples(uint64_t client, std::vector<uint32_t>& out) const = 0;
  // The largest num_samples of any client: bounds the weights of exact aggregation.
  virtual uint64_t max_samples() const = 0;
};

// Throws Error, saying which number to change, when the partition cannot be made. A number that is
// the default and cannot work on this data set gives way to one that can; `notes` (null when not
// wanted) receives a line for that, and for owners that are left out or not looked at.
std::unique_ptr<Partition> make_partition(const PartitionOptions& options, const Dataset& dataset,
                                          Key key, std::vector<std::string>* notes = nullptr);

// The one table of partitions: a name, a line for `espalier list partitions`, and the factory that
// make_partition calls.
struct PartitionRow {
  std::string name, summary;
  std::unique_ptr<Partition> (*make)(const PartitionOptions& options, const Dataset& dataset,
                                     Key key, std::vector<std::string>& notes);
};
const std::vector<PartitionRow>& partition_rows();

}  // namespace espalier::data

#pragma once

#include "espalier/client/algorithm.h"

namespace espalier::client {

// Collects the normalization layers' statistics of the task's model over the client's samples
// (HeteroFL's static batch norm, Diao et al. 2021): an update with the payload "statistics",
// weighed by the number of samples. Nothing is trained or remembered.
class Statistics final : public ClientAlgorithm {
 public:
  static constexpr const char* kName = "statistics";
  using Options = NoOptions;
  explicit Statistics(const Options&) {}
  wire::Update run(ClientContext& context, const wire::Task& task) const override;
};

}  // namespace espalier::client

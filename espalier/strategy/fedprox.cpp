#include "espalier/strategy/fedprox.h"

namespace espalier::strategy {

void FedProx::configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                        Task& task) {
  FedAvg::configure(round, global, task);
  task.algorithm = FedProxClient::kName;
  task.options = changed_options(options_);
}

}  // namespace espalier::strategy

#include "espalier/strategy/scaffold.h"

#include "espalier/base/error.h"
#include "espalier/strategy/scaffold_client.h"

namespace espalier::strategy {

void Scaffold::start(const ServerSetup& setup) {
  FedAvg::start(setup);
  num_clients_ = setup.num_clients;
  control_ = std::make_shared<ParameterSet>(setup.layout);
}

void Scaffold::load(ByteReader& in) {
  auto control = std::make_shared<ParameterSet>(layout());
  read_values(in, *control);
  control_ = std::move(control);
}

void Scaffold::configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                         Task& task) {
  if (task.train.optimizer != "sgd") {
    fail("strategy/scaffold", "expected train.optimizer = \"sgd\", got \"", task.train.optimizer,
         "\": the control variates are mean SGD gradients");
  }
  if (task.train.momentum != 0) {
    fail("strategy/scaffold", "expected train.momentum = 0, got ", task.train.momentum,
         ": with momentum the mean change is no longer the mean gradient that the control variates "
         "are");
  }
  FedAvg::configure(round, global, task);
  task.algorithm = ScaffoldClient::kName;
  task.payloads.push_back({ScaffoldClient::kControl, control_, 1});
}

std::vector<std::string> Scaffold::update_payloads(const RoundInfo&) const {
  return {kDelta, ScaffoldClient::kControlDelta};
}

void Scaffold::finish(const RoundInfo&, const RoundSums& sums, ParameterSet& global) {
  const ParameterSet mean = sums.mean(kDelta, layout());
  add_trained(static_cast<float>(server_lr_), mean, global);
  apply_untrained(mean, global);

  const ParameterSet control_mean = sums.mean(ScaffoldClient::kControlDelta, layout());
  const auto share = static_cast<float>(static_cast<double>(sums.num_updates()) /
                                        static_cast<double>(num_clients_));
  auto control = std::make_shared<ParameterSet>(*control_);
  add_scaled(control->values(), share, control_mean.values());
  control_ = std::move(control);
}

}  // namespace espalier::strategy

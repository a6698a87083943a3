#include "espalier/strategy/fedavg_client.h"

namespace espalier::strategy {

wire::Update FedAvgClient::run(client::ClientContext& context, const wire::Task& task) const {
  return train(context, task, {}, change_form(context));
}

wire::Update FedAvgClient::train(client::ClientContext& context, const wire::Task& task,
                                 const train::FitHooks& hooks, client::Change form) const {
  wire::Update update = client::train_locally(context, task, hooks, form);
  update.payloads[0].weight = weighting_.weight(update.num_samples);
  return update;
}

}  // namespace espalier::strategy

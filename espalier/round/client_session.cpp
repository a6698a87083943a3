#include "espalier/round/client_session.h"

#include "espalier/base/error.h"

namespace espalier::round {

EncodedMessage run_client_task(const EncodedMessage& message, const ClientEnvironment& environment, train::Trainer& trainer,
                               const data::Dataset& dataset, std::span<const uint32_t> samples) {
  Key client_key(0);
  const strategy::Task task =
      decode_task(message, environment.downlink, environment.limits, environment.decoded, client_key);
  std::shared_ptr<const strategy::ClientState> previous;
  if (task.state_version > 0) {
    ESPALIER_CHECK(environment.states != nullptr);
    previous = environment.states->get(task.client, task.state_version);
  }
  strategy::ClientContext context{trainer, dataset, samples, client_key, previous.get(), {}};
  const strategy::Update update = environment.strategy.run_client(context, task);
  EncodedMessage encoded = encode_update(update, environment.uplink, client_key.child(Purpose::kUplink), environment.limits);
  // The state is kept last: a client that failed before has not moved on.
  if (!context.next.empty()) {
    ESPALIER_CHECK(environment.states != nullptr);
    environment.states->put(task.client, task.round, task.state_version, std::move(context.next));
  }
  return encoded;
}

}  // namespace espalier::round

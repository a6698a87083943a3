#include "espalier/round/ledger.h"

#include <algorithm>

namespace espalier::round {

void Ledger::add(const RoundRecord& record) {
  rounds = record.round;
  bytes_down += static_cast<int64_t>(record.bytes_down);
  bytes_up += static_cast<int64_t>(record.bytes_up);
  client_updates += static_cast<int64_t>(record.clients - record.clients_failed);
  clients_failed += static_cast<int64_t>(record.clients_failed);
  macs += record.macs;
  client_seconds += record.client_seconds;
  simulated_seconds += record.simulated.total();
  wall_seconds += record.seconds;
  train_seconds += record.train_seconds;
  eval_seconds += record.eval_seconds;
  if (record.accuracy) {
    final_accuracy = *record.accuracy;
    if (record.loss) final_loss = *record.loss;
    best_accuracy = evaluated ? std::max(best_accuracy, final_accuracy) : final_accuracy;
    evaluated = true;
  }
}

}  // namespace espalier::round

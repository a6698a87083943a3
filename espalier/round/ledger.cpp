#include "espalier/round/ledger.h"

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier::round {

void RoundRecord::add_failures(const std::map<uint64_t, std::string>& reasons, const char* when) {
  for (const auto& [client, reason] : reasons) {
    if (failures.size() >= kMaxFailures) return;
    failures.push_back(concat("client ", client, when, ": ", reason));
  }
}

void Ledger::add(const RoundRecord& record, double target_accuracy) {
  rounds = record.round;
  bytes_down += static_cast<int64_t>(record.bytes_down);
  bytes_up += static_cast<int64_t>(record.bytes_up);
  client_updates += static_cast<int64_t>(record.clients - record.clients_failed);
  clients_failed += static_cast<int64_t>(record.clients_failed);
  exploration_bytes_down += static_cast<int64_t>(record.exploration.bytes_down);
  exploration_bytes_up += static_cast<int64_t>(record.exploration.bytes_up);
  exploration_macs += record.exploration.macs;
  evaluation_bytes_down += static_cast<int64_t>(record.evaluation.bytes_down);
  evaluation_bytes_up += static_cast<int64_t>(record.evaluation.bytes_up);
  evaluation_macs += record.evaluation.macs;
  macs += record.macs;
  eval_macs += record.eval_macs;
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
    if (target_accuracy > 0 && target_round == 0 && final_accuracy >= target_accuracy) {
      target_round = rounds;
      target_bytes_down = bytes_down;
      target_bytes_up = bytes_up;
      target_macs = macs;
      target_seconds = wall_seconds;
    }
  }
}

}  // namespace espalier::round

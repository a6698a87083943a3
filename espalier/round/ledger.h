#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/round/devices.h"

namespace espalier::round {

// What one round cost and gave. Bytes are what the encoded messages occupy, framing included.
struct RoundRecord {
  uint32_t round = 0;
  std::optional<double> accuracy, loss;  // on the test samples, where the round was evaluated
  double train_loss = 0, train_accuracy = 0;
  uint64_t clients = 0, clients_failed = 0;
  uint64_t bytes_down = 0, bytes_up = 0;
  double macs = 0;
  double client_seconds = 0;  // that clients trained, on their processors' clocks
  // Of an exploration before the round's training; contained in the figures above.
  struct Exploration {
    uint64_t clients = 0, bytes_down = 0, bytes_up = 0;
    double macs = 0;
  } exploration;
  double lr = 0;
  double seconds = 0, train_seconds = 0, eval_seconds = 0;  // wall clock of this process
  DeviceTimes simulated;                    // of the slowest client on the devices' clock
  std::map<double, double> width_accuracy;  // of the sub-models in submodel.eval_widths
  std::map<std::string, double> extra;      // what the strategy measured besides
  std::vector<std::string> failures;        // "client 17: reason", at most eight
  std::vector<std::string> notes;           // the strategy's, for a person
};

// Sums over the rounds so far; part of the checkpoint.
struct Ledger {
  int64_t rounds = 0;
  int64_t bytes_down = 0, bytes_up = 0;
  int64_t client_updates = 0, clients_failed = 0;
  // Contained in bytes and products, but in no count of clients.
  int64_t exploration_bytes_down = 0, exploration_bytes_up = 0;
  double exploration_macs = 0;
  double macs = 0, client_seconds = 0;
  double simulated_seconds = 0;  // what the rounds would have taken on the devices of [[devices]]
  double wall_seconds = 0, train_seconds = 0, eval_seconds = 0;
  double final_accuracy = 0, best_accuracy = 0, final_loss = 0;
  bool evaluated = false;
  // As of the first evaluated round of RunOptions::target_accuracy or more; 0: not yet.
  int64_t target_round = 0, target_bytes_down = 0, target_bytes_up = 0;
  double target_macs = 0, target_seconds = 0;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    const Field none("");
    visit("rounds", self.rounds, none);
    visit("bytes_down", self.bytes_down, none);
    visit("bytes_up", self.bytes_up, none);
    visit("client_updates", self.client_updates, none);
    visit("clients_failed", self.clients_failed, none);
    visit("exploration_bytes_down", self.exploration_bytes_down, none);
    visit("exploration_bytes_up", self.exploration_bytes_up, none);
    visit("exploration_macs", self.exploration_macs, none);
    visit("macs", self.macs, none);
    visit("client_seconds", self.client_seconds, none);
    visit("simulated_seconds", self.simulated_seconds, none);
    visit("wall_seconds", self.wall_seconds, none);
    visit("train_seconds", self.train_seconds, none);
    visit("eval_seconds", self.eval_seconds, none);
    visit("final_accuracy", self.final_accuracy, none);
    visit("best_accuracy", self.best_accuracy, none);
    visit("final_loss", self.final_loss, none);
    visit("evaluated", self.evaluated, none);
    visit("target_round", self.target_round, none);
    visit("target_bytes_down", self.target_bytes_down, none);
    visit("target_bytes_up", self.target_bytes_up, none);
    visit("target_macs", self.target_macs, none);
    visit("target_seconds", self.target_seconds, none);
  }
  // `target_accuracy` 0: none.
  void add(const RoundRecord& record, double target_accuracy = 0);
};

}  // namespace espalier::round

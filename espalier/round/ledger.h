#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/round/devices.h"
#include "espalier/train/trainer.h"

namespace espalier::round {

// What one round cost and gave. Bytes are what the encoded messages occupy, framing included; they,
// products and simulated times are those of all exchanges of the round: exploration, training,
// statistics and evaluation.
struct RoundRecord {
  // Of some of them.
  struct Cost {
    uint64_t bytes_down = 0, bytes_up = 0;
    double macs = 0;
    Cost& operator+=(const Cost& other) {
      bytes_down += other.bytes_down;
      bytes_up += other.bytes_up;
      macs += other.macs;
      return *this;
    }
  };
  uint32_t round = 0;  // 1-based
  // On the test samples, where the round was evaluated: share that is classified correctly, and
  // mean per sample. No loss when it is not finite.
  std::optional<double> accuracy, loss;
  // The counts behind the accuracy by class, where the evaluator tells classes apart.
  std::vector<train::ClassCount> classes;
  // Means over the clients that answered, weighted by their numbers of samples.
  double train_loss = 0, train_accuracy = 0;
  // Selected for training, and those of them whose update does not count.
  uint64_t clients = 0, clients_failed = 0;
  // Who was selected, and who explored before; ascending.
  std::vector<uint64_t> client_ids, explorer_ids;
  uint64_t deliveries_refused = 0;  // second, late or unsolicited answers, which nobody waited for
  // Down: every task that a client fetched, once; up: every awaited answer, faulty ones too.
  uint64_t bytes_down = 0, bytes_up = 0;
  double macs = 0;            // multiply-accumulates, as clients state them
  double client_seconds = 0;  // that clients trained and explored, on their processors' clocks
  // Of an exploration before the round's training. Bytes and products are contained in the figures
  // above; `clients`, those that answered, are not.
  struct Exploration : Cost {
    uint64_t clients = 0;
  } exploration;
  Cost evaluation;       // by clients, statistics for it included; contained likewise
  double eval_macs = 0;  // of the evaluation, where it is the server's
  double lr = 0;         // the clients' learning rate, schedule and warm-up applied
  // The whole round; what it took until the last update was in, exploration included; evaluation.
  double seconds = 0, train_seconds = 0, eval_seconds = 0;  // wall clock of this process
  // Exchanges follow each other, so each adds its own slowest client.
  DeviceTimes simulated;                    // of the slowest client on the devices' clock
  std::map<double, double> width_accuracy;  // of the sub-models in submodel.eval_widths
  std::map<std::string, double> extra;      // what the strategy measured besides
  std::vector<std::string> failures;        // "client 17: reason", at most kMaxFailures
  std::vector<std::string> notes;           // for a person

  static constexpr size_t kMaxFailures = 8;  // shown to a person; all are counted
  // "client 17 (when): reason", as long as there is room. `when` has its own leading space; empty:
  // in training.
  void add_failures(const std::map<uint64_t, std::string>& reasons, const char* when);
};

// Sums over the rounds so far; part of the checkpoint, so that a resumed run goes on counting.
// Units are RoundRecord's. Rounds that failed are in none of it.
struct Ledger {
  int64_t rounds = 0;  // completed
  int64_t bytes_down = 0, bytes_up = 0;
  // Updates that count in a mean, and selected clients that gave none.
  int64_t client_updates = 0, clients_failed = 0;
  // Contained in bytes and products, but in no count of clients.
  int64_t exploration_bytes_down = 0, exploration_bytes_up = 0;
  double exploration_macs = 0;
  int64_t evaluation_bytes_down = 0, evaluation_bytes_up = 0;
  double evaluation_macs = 0;
  double macs = 0, eval_macs = 0, client_seconds = 0;
  double simulated_seconds = 0;  // what the rounds would have taken on the devices of [[devices]]
  double wall_seconds = 0, train_seconds = 0, eval_seconds = 0;
  // As of the last evaluated round, and the highest of all; the last loss that was finite.
  double final_accuracy = 0, best_accuracy = 0, final_loss = 0;
  bool evaluated = false;  // whether any round was; false: the three above say nothing
  // As of the first evaluated round of RunOptions::target_accuracy or more; 0: not yet.
  int64_t target_round = 0, target_bytes_down = 0, target_bytes_up = 0;
  double target_macs = 0, target_seconds = 0;  // seconds of wall_seconds

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    // No help texts: nobody writes a ledger by hand. The names are keys of the checkpoint.
    const Field none("");
    visit("rounds", self.rounds, none);
    visit("bytes_down", self.bytes_down, none);
    visit("bytes_up", self.bytes_up, none);
    visit("client_updates", self.client_updates, none);
    visit("clients_failed", self.clients_failed, none);
    visit("exploration_bytes_down", self.exploration_bytes_down, none);
    visit("exploration_bytes_up", self.exploration_bytes_up, none);
    visit("exploration_macs", self.exploration_macs, none);
    visit("evaluation_bytes_down", self.evaluation_bytes_down, none);
    visit("evaluation_bytes_up", self.evaluation_bytes_up, none);
    visit("evaluation_macs", self.evaluation_macs, none);
    visit("macs", self.macs, none);
    visit("eval_macs", self.eval_macs, none);
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
  // Records come in the order of rounds. `target_accuracy` in [0, 1]; 0: none. Once reached, the
  // target's figures stay, whatever later rounds do.
  void add(const RoundRecord& record, double target_accuracy = 0);
};

}  // namespace espalier::round

#pragma once

#include <cstdint>
#include <string>

#include "espalier/base/options.h"

namespace espalier::round {

// The top level of a configuration: how long a run is, how often it is looked at and saved, and
// what holds for all strategies alike. fields() checks every value by itself; what does not go
// together is refused when the round loop is made (round/refusals.h).
//
// A run may be resumed with other values of rounds, eval_every, eval_batch, checkpoint_every and
// client_state_mb; with any other change its checkpoint belongs to another run.
struct RunOptions {
  // At least 0. The root of all keys (base/random.h): data, partition, initial weights, devices,
  // selection, order of samples, codecs.
  int64_t seed = 1;
  // Of the whole run, 0 to 10^9; 0: the initial model is written and nothing trained.
  int64_t rounds = 20;
  // In rounds. The last round is evaluated whatever it is; 0: only that one.
  int64_t eval_every = 1;
  // Samples, 1 to 100,000. Decides memory and speed; losses are added batch by batch, so that
  // another value may change the last bits of a loss.
  int64_t eval_batch = 100;
  // "server": on the server's test samples. "clients": by clients on what they hold out, share i, i
  // + N, … of the test samples for client i of N; `eval_clients` of them, drawn anew each time (0:
  // those that have answered the round). "none": nobody has any. Not "clients" with strategies
  // whose model is not the global one, nor with submodel.eval_widths.
  std::string evaluate = "server";
  int64_t eval_clients = 0;
  // In rounds, at least 1. After a crash at most this many are run again; a run that ends or is
  // interrupted writes a checkpoint in any case.
  int64_t checkpoint_every = 1;
  // In 10^6 bytes of values. Beyond it the least recently used states go to the run's folder; 0:
  // all do. Without a folder everything stays in memory.
  int64_t client_state_mb = 512;
  // Share of the test samples, 0 to 1; 0: no target. Only noted (Ledger::target_round), at the
  // first evaluation that finds it: the run goes on.
  double target_accuracy = 0;
  // Whether the run's folder says who took part in which round.
  bool record_clients = true;
  // "residual": Seide et al. 2014, Karimireddy et al. 2019; "ef21": Richtárik, Sokolov, Fatkhullin
  // 2021, algorithm 2 (codec/feedback.h). Both need an uplink that keeps more than it loses and one
  // state per client: "residual" clients that train the same units in every round, "ef21" whole
  // models without masks or increments beside them (SCAFFOLD). "auto" takes "residual" where it is
  // needed and possible (choose_feedback), and never "ef21".
  std::string error_feedback = "auto";
  // Needs such a downlink too; clients then remember the model that they have decoded
  // (codec/delta.h). Whatever else travels, models for evaluations too, is float32. Not with
  // sub-models, masks, or strategies that send weights only once.
  bool delta_downlink = false;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("seed", self.seed, Field("Everything random in a run follows from it.").at_least(0));
    visit("rounds", self.rounds,
          Field("Rounds to run; 0 writes the initial model and trains nothing.")
              .at_least(0)
              .at_most(1e9));
    visit("eval_every", self.eval_every,
          Field("Evaluate on the test samples every so many rounds, and after the last; 0: only "
                "after the last.")
              .at_least(0));
    visit("eval_batch", self.eval_batch,
          Field("Samples per evaluation batch.").at_least(1).at_most(100000));
    visit(
        "evaluate", self.evaluate,
        Field("Who evaluates: the server on its test samples; clients on those that they hold out; "
              "or nobody.")
            .one_of({"server", "clients", "none"}));
    visit(
        "eval_clients", self.eval_clients,
        Field("evaluate = \"clients\": how many of them, drawn anew each time; 0: those that have "
              "answered the round.")
            .at_least(0));
    visit(
        "checkpoint_every", self.checkpoint_every,
        Field("Write the checkpoint every so many rounds, and when the run ends or is interrupted.")
            .at_least(1));
    visit("target_accuracy", self.target_accuracy,
          Field("Note the round, bytes and time at which the model first reaches this accuracy on "
                "the test samples; 0: no target.")
              .at_least(0)
              .at_most(1));
    visit("record_clients", self.record_clients,
          Field("Write which clients took part in which round (metrics.jsonl, `clients`); false: "
                "only how many."));
    visit("client_state_mb", self.client_state_mb,
          Field("Memory for what simulated clients remember between rounds (scaffold), in MB; more "
                "goes to disk.")
              .at_least(0)
              .at_most(1e9));
    visit("error_feedback", self.error_feedback,
          Field("What a lossy uplink does with what it lost: none; residual: the client adds it to "
                "its next update; ef21: client and "
                "server keep estimates and send differences; auto: residual when the uplink codec "
                "is biased, else none.")
              .one_of({"auto", "none", "residual", "ef21"}));
    visit("delta_downlink", self.delta_downlink,
          Field("Send clients that took part in the round before the coded difference, and all "
                "others the whole state in float32; "
                "pays when nearly all clients take part in every round."));
  }
};

// The part of [strategy] that every strategy shares. The other keys of the section are the
// strategy's own.
struct SelectionOptions {
  // A row of strategy_rows().
  std::string name = "fedavg";
  // Drawn without replacement from the round's key. At least 1, at most the clients that there are
  // (of the device); more is an Error when the round loop is made.
  int64_t clients_per_round = 10;
  // The name of a DeviceOptions, whose clients alone train, explore and compute statistics; empty:
  // no restriction.
  std::string device;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("name", self.name, Field("Federated algorithm; `espalier list strategies` shows all."));
    visit("clients_per_round", self.clients_per_round,
          Field("Clients selected uniformly at random in each round.").at_least(1));
    visit("device", self.device,
          Field("Select only clients of this profile of [[devices]]; empty: all clients."));
  }
};

}  // namespace espalier::round

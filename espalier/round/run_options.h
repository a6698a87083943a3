#pragma once

#include <cstdint>
#include <string>

#include "espalier/base/options.h"

namespace espalier::round {

// The top level of a configuration.
struct RunOptions {
  int64_t seed = 1;
  int64_t rounds = 20;
  int64_t eval_every = 1;
  int64_t eval_batch = 100;
  int64_t checkpoint_every = 1;
  int64_t client_state_mb = 512;
  double target_accuracy = 0;
  std::string error_feedback = "auto";
  bool delta_downlink = false;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("seed", self.seed, Field("Everything random in a run follows from it.").at_least(0));
    visit("rounds", self.rounds, Field("Rounds to run.").at_least(1).at_most(1e9));
    visit("eval_every", self.eval_every,
          Field("Evaluate on the test samples every so many rounds, and after the last; 0: only "
                "after the last.")
              .at_least(0));
    visit("eval_batch", self.eval_batch,
          Field("Samples per evaluation batch.").at_least(1).at_most(100000));
    visit(
        "checkpoint_every", self.checkpoint_every,
        Field("Write the checkpoint every so many rounds, and when the run ends or is interrupted.")
            .at_least(1));
    visit("target_accuracy", self.target_accuracy,
          Field("Note the round, bytes and time at which the model first reaches this accuracy on "
                "the test samples; 0: no target.")
              .at_least(0)
              .at_most(1));
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

// The part of [strategy] that every strategy shares.
struct SelectionOptions {
  std::string name = "fedavg";
  int64_t clients_per_round = 10;
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

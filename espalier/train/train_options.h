#pragma once

#include <cstdint>
#include <string>

#include "espalier/base/options.h"
#include "espalier/train/hardware_options.h"
#include "espalier/train/step_options.h"

namespace espalier::train {

// How the server changes the clients' learning rate from round to round. Stays on the server: tasks
// carry the round's rate.
struct ScheduleOptions {
  // constant, step (lr·lr_decay^⌊t/lr_step_rounds⌋) or cosine (lr/2·(1 + cos(π·t/T))), where t
  // counts the rounds after warm-up from 0 and T is schedule_rounds without warm-up.
  std::string lr_schedule = "constant";
  double lr_decay = 1.0;       // step: factor, above 0 and at most 1
  int64_t lr_step_rounds = 1;  // step: rounds between two factors, at least 1
  // Rounds in which the rate is lr·r/lr_warmup_rounds (r = 1, 2, …) before the schedule begins; 0:
  // none.
  int64_t lr_warmup_rounds = 0;
  // cosine: the rounds that it is drawn over, warm-up included; later ones keep the rate of the
  // last of them. 0: as many as the run has when it begins, so that a run that is made longer later
  // does not draw it anew.
  int64_t schedule_rounds = 0;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("lr_schedule", self.lr_schedule,
          Field("Client learning rate by round t after warm-up: constant, step: "
                "lr·lr_decay^⌊t/lr_step_rounds⌋, or cosine: lr/2·(1 + cos(π·t/T)), T = "
                "schedule_rounds without warm-up.")
              .one_of({"constant", "step", "cosine"}));
    constexpr const char* kStep = "train.lr_schedule = \"step\"";
    const bool step = self.lr_schedule == "step";
    visit("lr_decay", self.lr_decay, Field("step: factor.").above(0).at_most(1).needs(step, kStep));
    visit("lr_step_rounds", self.lr_step_rounds,
          Field("step: rounds between two factors.").at_least(1).needs(step, kStep));
    visit("lr_warmup_rounds", self.lr_warmup_rounds,
          Field("Rounds in which the rate rises linearly, lr·r/lr_warmup_rounds in round r; the "
                "schedule begins after them.")
              .at_least(0));
    visit("schedule_rounds", self.schedule_rounds,
          Field("cosine: rounds that it is drawn over, warm-up included; rounds beyond keep its "
                "last rate. 0: the run's rounds, as many as it begins with.")
              .at_least(0)
              .at_most(1e9)
              .needs(self.lr_schedule == "cosine", "train.lr_schedule = \"cosine\""));
  }
};

// [train] of a configuration: one section, three owners.
struct TrainOptions {
  StepOptions step;          // travels with every task
  ScheduleOptions schedule;  // the server's
  HardwareOptions hardware;  // the client's own

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    StepOptions::optimizer_fields(self.step, visit);
    ScheduleOptions::fields(self.schedule, visit);
    StepOptions::augmentation_fields(self.step, visit);
    HardwareOptions::fields(self.hardware, visit);
  }
};

// The learning rate of a round (0-based) of a run that begins with `lr`, with warm-up and schedule
// applied. A cosine needs schedule_rounds.
double lr_at_round(const ScheduleOptions& schedule, double lr, int64_t round);

}  // namespace espalier::train

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
  // constant, step (lr·lr_decay^⌊round/lr_step_rounds⌋) or cosine (to 0 at the last round).
  std::string lr_schedule = "constant";
  double lr_decay = 1.0;       // step: factor, above 0 and at most 1
  int64_t lr_step_rounds = 1;  // step: rounds between two factors, at least 1
  // Rounds in which the rate rises linearly to lr before the schedule begins; 0: none.
  int64_t lr_warmup_rounds = 0;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("lr_schedule", self.lr_schedule,
          Field("Client learning rate by round: constant, lr·lr_decay^(round/lr_step_rounds), or a "
                "cosine to 0.")
              .one_of({"constant", "step", "cosine"}));
    visit("lr_decay", self.lr_decay, Field("step: factor.").above(0).at_most(1));
    visit("lr_step_rounds", self.lr_step_rounds,
          Field("step: rounds between two factors.").at_least(1));
    visit("lr_warmup_rounds", self.lr_warmup_rounds,
          Field("Rounds in which the rate rises linearly to lr.").at_least(0));
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

// The learning rate of a round (0-based) of a run of `num_rounds` that begins with `lr`, with
// warm-up and schedule applied.
double lr_at_round(const ScheduleOptions& schedule, double lr, int64_t round, int64_t num_rounds);

}  // namespace espalier::train

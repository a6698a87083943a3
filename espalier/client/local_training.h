#pragma once

#include "espalier/base/clock.h"
#include "espalier/client/algorithm.h"

// What the client halves that train weights have in common.
namespace espalier::client {

// Measures an algorithm from here on and writes the standard scalars of its update (wire/task.h).
class Measured {
 public:
  Measured() : started_(thread_cpu_seconds()) {}
  // `macs`: multiply-accumulates of everything the client computed; seconds are this thread's.
  void report(const train::FitResult& fit, double macs, double num_samples,
              wire::Update& update) const;

 private:
  double started_;
};

// The trainer's weights minus `before`, as an update says it. A counter of steps may outgrow what
// sums exactly; its exact value matters to nobody, so it is cut off there.
std::shared_ptr<ParameterSet> change_since(const ParameterSet& before, train::Trainer& trainer);

// How train_locally() returns the change.
enum class Change {
  kValues,
  // As a difference that is not made yet (wire::Payload::before), where the trainer's weights lie
  // in one buffer.
  kDifference
};

// Loads the task's model, trains it on the client's samples with the given hooks, and returns an
// update with the payload "delta" (after − before, weight 1) and the standard scalars.
wire::Update train_locally(ClientContext& context, const wire::Task& task,
                           const train::FitHooks& hooks, Change form = Change::kValues);

}  // namespace espalier::client

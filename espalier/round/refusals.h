#pragma once

#include <string>
#include <vector>

#include "espalier/codec/codec.h"
#include "espalier/round/devices.h"
#include "espalier/round/run_options.h"
#include "espalier/round/submodel_plan.h"
#include "espalier/strategy/strategy.h"

// Which features of a run go together. What a section says about itself alone is checked where it
// is read; this is feature against feature, and follows from what strategies declare (Traits),
// never from their names.
namespace espalier::round {

struct Choices {
  const strategy::Traits& traits;
  const SelectionOptions& selection;
  const RunOptions& run;
  const SubmodelOptions& submodel;
  const std::vector<DeviceOptions>& devices;
  const codec::Codec &uplink, &downlink;
};

// Throws Error for the first combination that does not work, with what to do about it.
void refuse_combinations(const Choices& choices);

// What the uplink does with what its codec lost; see RunOptions::error_feedback.
enum class Feedback : uint8_t { kNone, kResidual, kEf21 };
// "auto" decided by the codec and by whether what a client remembers still fits its next task: with
// sub-models of other units in every round, or a strategy that sends no changes of weights, it does
// not. For choices that are not refused.
Feedback choose_feedback(const Choices& choices);
// The clients' update stages that do it (client/update_stages.h).
std::vector<std::string> update_stages(Feedback feedback);

// Error feedback and differences converge only where every tensor is coded by what keeps more than
// it loses, E‖C(x) − x‖² < ‖x‖². Throws Error when a pipeline that codes a tensor of `layout` does
// not, whatever the others do; `what` needs it.
void require_contraction(const codec::Codec& codec, const ParameterLayout& layout,
                         std::string_view what);

}  // namespace espalier::round

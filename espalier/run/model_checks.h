#pragma once

#include "espalier/run/run_config.h"
#include "espalier/train/trainer.h"

// What every command asks of a model before it uses it: one rule at all doors.
namespace espalier::run {

// Throws Error for a model that returns (features, logits) where no strategy wants features and
// model.output does not say that the second are the logits.
void check_output(const RunConfig& config, const train::Trainer& trainer);

// Throws Error when [submodel] is asked for and the model has no units that could be dropped: says
// why, as the pruned runtime does.
void check_units(const RunConfig& config, const train::DataSpec& data,
                 const train::Trainer& trainer);

// Why the model has no units ("it has no hidden layers", or what the analysis of its operators
// found).
std::string why_no_units(const RunConfig& config, const train::DataSpec& data);

}  // namespace espalier::run

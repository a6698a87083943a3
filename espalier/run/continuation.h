#pragma once

#include <cstdint>

#include "espalier/report/run_folder.h"
#include "espalier/run/run_config.h"

// A run that goes on is the run that it was: what may differ, and what must not.
namespace espalier::run {

// Of every key that must not change: all but how long a run is, how often it is looked at and
// saved, and where files lie whose contents are compared (run/sources.h).
uint64_t configuration_fingerprint(const RunConfig& config);

// Throws Error that names the first key, with both values, in which `now` differs from the folder's
// configuration although it must not.
void refuse_changes(const RunConfig& now, const report::RunFolder& folder);

}  // namespace espalier::run

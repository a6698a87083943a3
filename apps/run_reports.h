#pragma once

#include "espalier/report/run_folder.h"

namespace espalier::apps {

// The report and TensorBoard's events of a run, from what its folder holds.
void write_reports(const report::RunFolder& folder);

}  // namespace espalier::apps

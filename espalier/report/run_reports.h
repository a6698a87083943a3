#pragma once

#include "espalier/report/run_folder.h"

namespace espalier::report {

// The report and TensorBoard's events of a run, from what its folder holds.
void write_reports(const RunFolder& folder);

}  // namespace espalier::report

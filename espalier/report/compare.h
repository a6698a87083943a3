#pragma once

#include <string>
#include <vector>

#include "espalier/report/run_data.h"

// Runs side by side, in the order given; ratios of bytes are against the first.
namespace espalier::report {

// An aligned table, one line per run: strategy, rounds, final and best accuracy, bytes down and up
// per client-round, bytes in total and their ratio to the first run's ("0.25x" is a quarter of its
// bytes), client MACs, wall time, peak memory and a sparkline of the accuracy on one common scale.
std::string compare_text(const std::vector<RunData>& runs);

// {"runs": [{"run": name, "finished": …, "bytes_ratio_to_first": …, and all of its summary}]}.
Json compare_json(const std::vector<RunData>& runs);

// Bytes down plus up of a run; nullopt when it has neither.
std::optional<double> total_bytes(const RunData& run);

// total_bytes(run) / total_bytes(first); nullopt when one of them is missing or the first is zero.
std::optional<double> bytes_ratio(const RunData& run, const RunData& first);

}  // namespace espalier::report

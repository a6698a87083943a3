#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "espalier/base/options.h"

// Aligned text for terminals.
namespace espalier::report {

// Rows of cells; the first row is the header. The first column is aligned left, the others right;
// columns are separated by two spaces; widths count code points.
std::string text_table(const std::vector<std::vector<std::string>>& rows);

// What `espalier simulate` prints at its end: accuracy, rounds, bytes down and up (and against
// fp32), MACs, time, updates per second, peak memory and where the report is. `summary` is
// summary.json; figures it does not have are left out, and so is an empty `report_path`.
std::string summary_block(const Json& summary, std::string_view report_path);

// Values as a row of ▁▂▃▄▅▆▇█, `width` cells at most, on the scale low..high; values that are
// missing (NaN) are blanks. More values than cells are thinned evenly; the last one is always
// shown.
std::string sparkline(const std::vector<double>& values, size_t width, double low, double high);

}  // namespace espalier::report

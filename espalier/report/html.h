#pragma once

#include <string>
#include <vector>

#include "espalier/report/run_data.h"

// One HTML file that needs nothing else, neither network nor neighbors: style, chart library and
// data are inside. With one run: its key figures as cards, the curves of accuracy and loss by
// round, by bytes and by time, every other number of the metrics, the labels of the clients and the
// configuration. With several: a table of the figures with the best values marked, the curves of
// all runs in the same charts, and the configuration keys in which they differ. Absolute paths of
// the machine that occur in configuration or summary are not shown. Light or dark by the reader's
// setting.
namespace espalier::report {

// `runs` is not empty. Curves of more than 1,000 rounds are thinned evenly (first and last point
// kept).
std::string render_html(const std::vector<RunData>& runs);

// Renders and writes atomically.
void write_html(const std::vector<RunData>& runs, const std::filesystem::path& path);

}  // namespace espalier::report

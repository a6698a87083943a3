#pragma once

#include <string>

#include "espalier/report/run_folder.h"

namespace espalier::report {

// How the labels are spread over the clients: an inline SVG with one stacked bar per client (the
// first 100), as high as its samples, one color per class (above 20 classes: per run of neighboring
// classes), and a legend. Empty when there is nothing to draw.
std::string histogram_html(const ClientHistogram& histogram);

}  // namespace espalier::report

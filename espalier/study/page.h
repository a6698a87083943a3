#pragma once

#include <string>

#include "espalier/study/results.h"

// study.html: the table, curves with a band of one standard deviation over seeds, accuracy against
// bytes with the Pareto front, bars for each target and what the variants set. One file that needs
// nothing else (report/page.h).
namespace espalier::study {

std::string render_page(const Study& study, const std::vector<Found>& found,
                        const Results& results);

}  // namespace espalier::study

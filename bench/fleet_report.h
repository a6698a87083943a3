#pragma once

#include <string>

#include "bench/fleet.h"
#include "espalier/base/options.h"

// What a person sees of a fleet: figures, a table, a page.
namespace espalier::bench {

// The figures, named with their units; `by_minute` and `rounds` are left to the page.
Json fleet_figures(const FleetOptions& options, const FleetResult& result);
// The same as lines for a terminal.
std::string fleet_table(const FleetOptions& options, const FleetResult& result);
// One HTML file that needs nothing else (report/page.h).
std::string fleet_page(const FleetOptions& options, const FleetResult& result);

}  // namespace espalier::bench

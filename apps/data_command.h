#pragma once

#include <CLI/CLI.hpp>

namespace espalier::apps {

// Adds `espalier data fetch|info|partition`. The work is done in the subcommands' callbacks, which
// throw espalier::Error. With --json, standard output gets one JSON object and nothing else.
void add_data_command(CLI::App& app);

}  // namespace espalier::apps

#pragma once

#include <CLI/CLI.hpp>

namespace espalier::apps {

// Adds `espalier codec eval|bench|encode|decode`. The work is done in the subcommands' callbacks,
// which throw espalier::Error. With --json, standard output gets one JSON value and nothing else.
void add_codec_command(CLI::App& app);

}  // namespace espalier::apps

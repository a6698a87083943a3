#pragma once

namespace CLI {
class App;
}

namespace espalier::apps {

// `espalier compare RUN_DIR... [--html FILE] [--json]`
void add_compare_command(CLI::App& app);

}  // namespace espalier::apps

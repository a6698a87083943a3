#pragma once

namespace CLI {
class App;
}

namespace espalier::apps {

// `espalier report RUN_DIR [--html FILE]`
void add_report_command(CLI::App& app);

}  // namespace espalier::apps

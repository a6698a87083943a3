#include "report_command.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "espalier/report/html.h"
#include "espalier/report/text_table.h"

namespace espalier::apps {

namespace {

struct Options {
  std::string run, html;
};

void render(const Options& options) {
  const report::RunFolder folder = report::RunFolder::open(options.run);
  const std::string path = options.html.empty() ? folder.report_path().string() : options.html;
  refuse_overwriting(path, folder.files());
  const report::RunData run = report::load_run(options.run);
  report::write_html({run}, path);
  std::cout << report::summary_block(run.summary, path);
}

}  // namespace

void add_report_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("report", "Render the HTML report of a run again, finished or not");
  command->add_option("run", options->run, "Run folder")->required()->type_name("RUN_DIR");
  command->add_option("--html", options->html, "Where to write it (default: RUN_DIR/report.html)")
      ->type_name("FILE");
  command->footer(
      "Examples:\n"
      "  espalier report runs/fedavg\n"
      "  espalier report runs/fedavg --html fedavg.html");
  command->callback([options] { render(*options); });
}

}  // namespace espalier::apps

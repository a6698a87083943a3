#include "compare_command.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "espalier/report/compare.h"
#include "espalier/report/html.h"

namespace espalier::apps {

namespace {

struct Options {
  std::vector<std::string> runs;
  std::string html;
  bool json = false;
};

void compare(const Options& options) {
  const auto runs = report::load_runs({options.runs.begin(), options.runs.end()});
  if (!options.html.empty()) {
    for (const std::string& run : options.runs)
      refuse_overwriting(options.html, report::RunFolder::open(run).files());
    report::write_html(runs, options.html);
  }
  if (options.json) {
    std::cout << report::compare_json(runs).dump(2, ' ', false, Json::error_handler_t::replace)
              << "\n";
    return;
  }
  std::cout << report::compare_text(runs);
  if (!options.html.empty()) std::cout << "\ncomparison written to " << options.html << "\n";
}

}  // namespace

void add_compare_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("compare", "Put runs side by side: accuracy, bytes, MACs, time, memory");
  command->add_option("runs", options->runs, "Run folders; ratios are against the first")
      ->required()
      ->type_name("RUN_DIR");
  command->add_option("--html", options->html, "Also write a page with the curves of all runs")
      ->type_name("FILE");
  command->add_flag("--json", options->json, "Print one JSON object instead of a table");
  command->footer(
      "Examples:\n"
      "  espalier compare runs/fedavg runs/quantized\n"
      "  espalier compare runs/* --html comparison.html\n"
      "  espalier compare runs/* --json");
  command->callback([options] { compare(*options); });
}

}  // namespace espalier::apps

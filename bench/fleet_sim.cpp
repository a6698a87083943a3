// An open population on a virtual clock: how often devices ask, how long rounds take and who takes
// part, with the classes that `espalier serve` uses (bench/fleet.h says what devices do).
//
//   fleet_sim                                    a million devices, a day
//   fleet_sim --restart-at 12 --html fleet.html  the server goes at noon and is back after 5
//   minutes
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "bench/fleet.h"
#include "bench/fleet_report.h"
#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/report/human.h"

namespace espalier::bench {
namespace {

// A line now and then on standard error, for a person who waits.
class Told {
 public:
  explicit Told(double hours) : hours_(hours), terminal_(::isatty(STDERR_FILENO) == 1) {}
  ~Told() {
    if (terminal_ && shown_) std::fprintf(stderr, "\r\33[K");
  }
  void operator()(double hour) {
    const double now = clock_.seconds();
    if (now < 2 || now - last_ < (terminal_ ? 0.2 : 10)) return;
    last_ = now;
    shown_ = true;
    std::fprintf(stderr, terminal_ ? "\r\33[K%.0f of %.0f h, %s" : "%.0f of %.0f h, %s\n", hour,
                 hours_, report::human_seconds(now).c_str());
  }

 private:
  const double hours_;
  const bool terminal_;
  const Stopwatch clock_;
  double last_ = 0;
  bool shown_ = false;
};

int main_of(int argc, char** argv) {
  FleetOptions options;
  std::string json, html;
  CLI::App app("An open population of `espalier serve` on a virtual clock, from midnight on");
  const auto add = [&app](const char* name, auto& value, const char* text) {
    app.add_option(name, value, text)->capture_default_str();
  };
  add("--devices", options.devices, "Devices of the population");
  add("--hours", options.hours, "Hours of the virtual clock");
  add("--goal", options.goal, "Updates that close a round");
  add("--period-s", options.period_s, "Seconds from one round's opening to the next, at least");
  add("--drop-out", options.drop_out, "Share of the asked devices that vanish while they work");
  add("--work-s", options.work_s, "Median of a device's seconds for a round (lognormal)");
  add("--work-sigma", options.work_sigma, "Standard deviation of its logarithm");
  add("--noon", options.noon, "Share of the devices that may work at noon, local time");
  add("--night", options.night, "And at three in the morning");
  add("--zones-h", options.zones_h, "Hours over which local times are spread");
  app.add_option("--restart-at", options.restart_at_h,
                 "Hour at which the server goes; it has forgotten all but who has joined");
  add("--outage-s", options.outage_s, "Seconds until it is back");
  add("--new-within-h", options.new_within_h,
      "Above 0: nobody has joined yet, and all come within so many hours");
  add("--over-selection", options.over_selection, "server.over_selection of serve");
  add("--min-fraction", options.min_fraction, "server.min_fraction");
  add("--select-window-s", options.select_window_s, "server.select_window_s");
  add("--deadline-s", options.deadline_s, "server.round_deadline_s");
  add("--poll-s", options.poll_s, "network.poll_s");
  add("--seed", options.seed, "The same seed gives the same day");
  app.add_option("--json", json,
                 "File for the figures; - is standard output, in place of the table");
  app.add_option("--html", html, "File for a page with the curves of the day");
  app.footer(
      "Examples:\n"
      "  fleet_sim --html fleet.html\n"
      "  fleet_sim --devices 20000 --restart-at 12 --json -\n"
      "Exit codes: 0 done, 2 the input is wrong, 1 anything else.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    options.validate();
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }

  const Stopwatch clock;
  Told told(options.hours);
  const FleetResult result = Fleet(options).run([&](double hour) { told(hour); });
  const double seconds = clock.seconds();
  if (json == "-") {
    std::printf("%s\n", fleet_figures(options, result).dump(2).c_str());
  } else {
    std::printf("%s", fleet_table(options, result).c_str());
    if (!json.empty()) write_text_file_atomic(json, fleet_figures(options, result).dump(2) + "\n");
  }
  if (!html.empty()) write_text_file_atomic(html, fleet_page(options, result));
  std::fprintf(stderr, "%s events in %s, at most %s of memory\n",
               report::human_count(static_cast<double>(result.events)).c_str(),
               report::human_seconds(seconds).c_str(),
               report::human_bytes(static_cast<double>(peak_rss_bytes())).c_str());
  return 0;
}

}  // namespace
}  // namespace espalier::bench

int main(int argc, char** argv) {
  try {
    return espalier::bench::main_of(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

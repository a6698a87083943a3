#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>

#include "apps/command.h"
#include "apps/interrupts.h"
#ifdef ESPALIER_LIVE
#include "apps/live_view.h"
#endif
#include "apps/tokens.h"
#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/thread_pool.h"
#include "espalier/report/run_reports.h"
#include "espalier/report/text_table.h"
#include "espalier/run/serve_run.h"

namespace espalier::apps {

namespace {

namespace fs = std::filesystem;

struct ServeArguments {
  std::string config, out, resume, listen, pki;
  std::vector<std::string> assignments;
  bool insecure = false, json = false, quiet = false, log_json = false, or_resume = false;
};

#ifdef ESPALIER_LIVE
Json devices_of(const serve::NetworkBackend& backend) {
  constexpr const char* kPhases[] = {"idle",    "fetching", "training",
                                     "pushing", "failed",   "leaving"};
  Json list = Json::array();
  for (const serve::ClientView& view : backend.clients()) {
    list.push_back({{"client", view.client},
                    {"enrolled", view.enrolled},
                    {"connected", view.connected},
                    {"phase", kPhases[static_cast<size_t>(view.phase)]},
                    {"progress", view.progress},
                    {"detail", view.detail}});
  }
  return list;
}
#endif

void serve(const ServeArguments& arguments) {
  std::string resume = arguments.resume;
  if (arguments.or_resume) {
    if (arguments.out.empty() || arguments.config.empty())
      fail("serve", "--or-resume needs CONFIG and --out: what to begin, or to go on with");
    if (report::RunFolder::is_run(arguments.out)) resume = arguments.out;
  }
  const bool resuming = !resume.empty();
  if (!arguments.or_resume && resuming == !arguments.config.empty())
    fail("serve", "expected a configuration file or --resume DIR, ",
         resuming ? "got both" : "got neither");
  if (!arguments.resume.empty() && !arguments.out.empty())
    fail("serve", "--resume writes into the folder it resumes; leave out --out");
  std::optional<report::RunFolder> folder;
  if (resuming) folder = report::RunFolder::resume(resume);
  Json tree = read_toml_file(resuming ? folder->config_path() : fs::path(arguments.config));
  std::vector<std::string> notes;
  if (resuming && !arguments.config.empty())
    notes = run::take_network(read_toml_file(arguments.config), arguments.config,
                              arguments.assignments, tree);
  // Before --set: what is named there counts more.
  if (!arguments.pki.empty()) run::use_pki(fs::absolute(arguments.pki), tree);
  std::ranges::move(run::override_config(tree, arguments.assignments), std::back_inserter(notes));
  if (!arguments.listen.empty())
    set_config_value(tree, Assignment{"server.listen", arguments.listen});
  const run::NetworkConfig network = run::read_network_config(tree);
  run::RunConfig config = run::read_run_config(tree);
  const bool quiet = arguments.quiet || arguments.log_json;
  const size_t threads = network.server.threads > 0 ? static_cast<size_t>(network.server.threads)
                                                    : available_processors();
  const auto rounds = static_cast<uint64_t>(config.run.rounds);
#ifdef ESPALIER_LIVE
  const std::string token = read_token(network.server.status_token_file);
#endif
  if (!resuming) {
    if (arguments.or_resume) run::clear_failed_start(arguments.out);
    folder =
        arguments.out.empty()
            ? report::RunFolder::create_beside(fs::path("runs") / fs::path(arguments.config).stem())
            : report::RunFolder::create(arguments.out);
  }
  const auto* stop = catch_interrupts(
      "\nStopping after this round, or when server.drain_s are over; once more stops at once.\n");
  run::ServeRun server(std::move(config), network, arguments.insecure, threads, *folder, stop,
                       arguments.log_json, arguments.assignments);
  run::Simulation& simulation = server.simulation();
  if (resuming) simulation.resume();
  Json resolved = simulation.resolved();
  run::write_network_config(network, resolved);
  folder->write_config(to_toml(resolved));
  if (arguments.insecure)
    std::fprintf(stderr,
                 "WARNING: --insecure: nothing is encrypted and clients are who they say\n");
  std::fprintf(stderr, "listening on port %u, run folder %s\n", server.port(),
               folder->path().c_str());
  if (!quiet) {
    for (const auto& some : {notes, simulation.notes()})
      for (const std::string& note : some) std::fprintf(stderr, "note: %s\n", note.c_str());
  }
#ifdef ESPALIER_LIVE
  std::optional<LiveView> live;
  if (!network.server.status_listen.empty()) {
    try {
      live.emplace(
          network.server.status_listen, folder->name(), simulation,
          [&server] { return devices_of(server.backend()); }, token);
      std::fprintf(stderr, "live page: %s\n", live->url().c_str());
    } catch (const Error& error) {
      // A run is worth more than its page: another server may have the port.
      std::fprintf(stderr, "note: no live page: %s\n", error.what());
    }
  }
  const auto show = [&](const char* state) {
    if (live) live->set_state(state);
  };
#else
  const auto show = [](const char*) {};
#endif
  const bool everybody = server.wait_for_clients([&](uint64_t here, uint64_t all) {
    if (!quiet)
      std::fprintf(stderr, "%llu of %llu clients have joined\n",
                   static_cast<unsigned long long>(here), static_cast<unsigned long long>(all));
  });
  if (everybody) {
    report::ProgressOptions options;
    options.rounds = rounds;
    options.rounds_completed = simulation.loop().rounds_completed();
    options.mode = quiet ? report::ProgressMode::kQuiet : report::ProgressMode::kAuto;
    report::Progress progress(options);
    show("running");
    try {
      server.run(&progress);
    } catch (const StorageError&) {
      server.go_away();  // it goes on when there is room
      show("failed");
      throw;
    } catch (const Error& error) {
      server.finish(false, error.what());
      show("failed");
      throw;
    }
    report::write_reports(*folder);
  }
  const bool completed = everybody && simulation.finished();
  if (completed) {
    server.finish(true, "");
  } else {
    server.go_away();
  }
  show(completed ? "done" : "stopped");
  if (!completed) {
    std::fprintf(stderr, "Stopped after round %u of %llu. Go on with: espalier serve --resume %s\n",
                 simulation.loop().rounds_completed(), static_cast<unsigned long long>(rounds),
                 folder->path().c_str());
    throw Interrupted();
  }
  if (arguments.json) {
    Json out = simulation.summary();
    out["run"] = folder->path().string();
    std::printf("%s\n", out.dump().c_str());
  } else if (!quiet) {
    std::printf(
        "%s", report::summary_block(simulation.summary(), folder->report_path().string()).c_str());
  }
}

}  // namespace

void add_serve_command(CLI::App& app) {
  auto arguments = std::make_shared<ServeArguments>();
  CLI::App* command = app.add_subcommand(
      "serve", "Run a federated training whose clients are devices that join over a network");
  command->add_option("CONFIG", arguments->config,
                      "Configuration (TOML), as for simulate; data.partition.clients is how many "
                      "join");
  command
      ->add_option("--set", arguments->assignments,
                   "Override a key: --set server.listen=0.0.0.0:8443 (repeatable)")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--out", arguments->out,
                      "Folder of the run; default runs/<name of the configuration>");
  command->add_option("--resume", arguments->resume, "Go on with the run in this folder");
  command->add_flag("--or-resume", arguments->or_resume,
                    "Go on with the run in --out when there is one: for a service, which starts "
                    "again after a crash with the same command; [server], [network] and [security] "
                    "are CONFIG's each time");
  command->add_option("--listen", arguments->listen, "server.listen: address and port");
  command->add_option("--pki", arguments->pki, "security.pki: folder of `espalier pki init`");
  command->add_flag("--insecure", arguments->insecure,
                    "Neither encryption nor certificates; on 127.0.0.1 alone");
  command->add_flag("--json", arguments->json, "Print the summary as one JSON object");
  command->add_flag("--log-json", arguments->log_json,
                    "One JSON object per line on standard error for everything that happens, in "
                    "place of the progress");
  command->add_flag("--quiet", arguments->quiet, "No progress and no summary");
  command->footer(
      "Examples:\n"
      "  espalier serve examples/network.toml --pki pki\n"
      "  espalier serve --resume runs/network\n"
      "Clients join with `espalier join`; docs/network.md shows both sides.\n"
      "Exit codes: 0 done, 2 the input is wrong, 3 interrupted (go on with --resume), 1 anything "
      "else.");
  command->callback([arguments] { serve(*arguments); });
}

}  // namespace espalier::apps

#include <cstdio>
#include <filesystem>

#include "apps/command.h"
#include "apps/interrupts.h"
#ifdef ESPALIER_LIVE
#include "apps/live_view.h"
#endif
#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/thread_pool.h"
#include "espalier/report/run_reports.h"
#include "espalier/report/text_table.h"
#ifdef ESPALIER_MPI
#include "espalier/run/rank_run.h"
#endif
#include "espalier/run/replay.h"
#include "espalier/run/simulation.h"

namespace espalier::apps {

namespace {

namespace fs = std::filesystem;

struct SimulateArguments {
  std::string config, out, resume, replay;
  std::vector<std::string> assignments;
  int64_t threads = 0;
  bool json = false, quiet = false;
  bool live = false;
  std::string live_at;  // of the live page
};

void simulate(const SimulateArguments& arguments) {
#ifdef ESPALIER_MPI
  std::optional<run::RankRun> ranks;
  if (mpi::launched()) {
    ranks.emplace();
    if (!ranks->first()) {
      ranks->work();
      return;
    }
  }
#endif
  const bool resuming = !arguments.resume.empty();
  if (resuming == !arguments.config.empty()) {
    fail("simulate", "expected a configuration file or --resume DIR, ",
         resuming ? "got both" : "got neither");
  }
  if (resuming && !arguments.out.empty())
    fail("simulate", "--resume writes into the folder it resumes; leave out --out");
  std::optional<report::RunFolder> folder;
  if (resuming) folder = report::RunFolder::resume(arguments.resume);
  Json tree = read_toml_file(resuming ? folder->config_path() : fs::path(arguments.config));
  const std::vector<std::string> overridden = run::override_config(tree, arguments.assignments);
  run::RunConfig config = run::read_run_config(tree);
  size_t processors = available_processors();
#ifdef ESPALIER_MPI
  if (ranks) processors = ranks->threads_here();
#endif
  const size_t threads =
      arguments.threads > 0 ? static_cast<size_t>(arguments.threads) : processors;

  const auto rounds = static_cast<uint64_t>(config.run.rounds);
  // Taken now, so that nobody else can; it goes again when something is wrong with the input.
  if (!resuming) {
    folder =
        arguments.out.empty()
            ? report::RunFolder::create_beside(fs::path("runs") / fs::path(arguments.config).stem())
            : report::RunFolder::create(arguments.out);
  }
  std::optional<run::ReplayBackend> replay;
  run::SimulationHooks hooks;
#ifdef ESPALIER_MPI
  if (ranks) {
    if (!arguments.replay.empty())
      fail("simulate", "--replay repeats a served run in one process; start it without mpirun");
    hooks = ranks->hooks();
  }
#endif
  if (!arguments.replay.empty()) {
    hooks.wrap = [&](round::Backend& simulator) -> round::Backend& {
      return replay.emplace(simulator, run::read_replay(arguments.replay));
    };
  }
  run::Simulation simulation(std::move(config), threads, &*folder, arguments.assignments,
                             std::move(hooks));
  if (resuming) simulation.resume();
  if (replay) replay->skip_through(simulation.loop().rounds_completed());
  if (!arguments.quiet) {
    std::fprintf(stderr, "%s\n", simulation.size_line().c_str());
#ifdef ESPALIER_MPI
    if (ranks) std::fprintf(stderr, "%s\n", ranks->line(threads).c_str());
#endif
    for (const auto& notes : {overridden, simulation.notes()})
      for (const std::string& note : notes) std::fprintf(stderr, "note: %s\n", note.c_str());
  }
  folder->write_config(to_toml(simulation.resolved()));
#ifdef ESPALIER_MPI
  if (ranks)
    ranks->invite(simulation, *folder,
                  arguments.threads > 0 ? std::optional(threads) : std::nullopt);
#endif

  report::ProgressOptions options;
  options.rounds = rounds;
  options.rounds_completed = simulation.loop().rounds_completed();
  options.mode = arguments.quiet ? report::ProgressMode::kQuiet : report::ProgressMode::kAuto;
  report::Progress progress(options);
#ifdef ESPALIER_LIVE
  std::optional<LiveView> live;
  if (arguments.live || !arguments.live_at.empty()) {
    live.emplace(arguments.live_at.empty() ? "127.0.0.1:0" : arguments.live_at, folder->name(),
                 simulation);
    live->set_state("running");
    std::fprintf(stderr, "live page: %s\n", live->url().c_str());
  }
#endif
#ifdef ESPALIER_MPI
  if (ranks) catch_as_interrupt(SIGUSR1);
#endif
  const auto* stop = catch_interrupts("\nStopping after this round; once more stops at once.\n");
  try {
    simulation.run(&progress, stop);
  } catch (...) {
#ifdef ESPALIER_LIVE
    if (live) live->set_state("failed");
#endif
    throw;
  }
  report::write_reports(*folder);
#ifdef ESPALIER_LIVE
  if (live) live->set_state(simulation.finished() ? "done" : "stopped");
#endif

  if (arguments.json) {
    Json out = simulation.summary();
    out["run"] = folder->path().string();
    std::printf("%s\n", out.dump().c_str());
  } else if (!arguments.quiet) {
    std::printf(
        "%s", report::summary_block(simulation.summary(), folder->report_path().string()).c_str());
  }
  if (!simulation.finished()) {
    std::fprintf(stderr,
                 "Stopped after round %u of %llu. Go on with: espalier simulate --resume %s\n",
                 simulation.loop().rounds_completed(), static_cast<unsigned long long>(rounds),
                 folder->path().c_str());
    throw Interrupted();
  }
}

}  // namespace

void add_simulate_command(CLI::App& app) {
  auto arguments = std::make_shared<SimulateArguments>();
  CLI::App* command = app.add_subcommand(
      "simulate", "Run a federated training on this machine and leave a run folder with a report");
  command->add_option("CONFIG", arguments->config, "Configuration (TOML)");
  command
      ->add_option("--set", arguments->assignments,
                   "Override a key: --set strategy.name=fedprox (repeatable)")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--out", arguments->out,
                      "Folder of the run; default runs/<name of the configuration>");
  command->add_option("--resume", arguments->resume, "Go on with the run in this folder");
  command->add_option("--replay", arguments->replay,
                      "Repeat a served run: its server/events.jsonl says who took part in which "
                      "round");
  command
      ->add_option(
          "--threads", arguments->threads,
          "Clients trained at a time, of each rank under mpirun; default: the number of processors")
      ->check(CLI::Range(1, 4096));
#ifdef ESPALIER_LIVE
  command->add_flag("--live", arguments->live,
                    "Show the run on a page while it goes, at a free port of this machine");
  command->add_option("--live-at", arguments->live_at,
                      "The same at this address, 127.0.0.1:9464 for instance");
#endif
  command->add_flag("--json", arguments->json, "Print the summary as one JSON object");
  command->add_flag("--quiet", arguments->quiet, "No progress and no summary");
  command->footer(
      "Examples:\n"
      "  espalier simulate examples/fashion-mnist.toml\n"
      "  espalier simulate examples/fashion-mnist.toml --set train.lr=0.1 --set "
      "strategy.clients_per_round=20 --out runs/wide\n"
      "  espalier simulate --resume runs/wide\n"
      "Every key of a configuration: espalier list options\n"
#ifdef ESPALIER_MPI
      "On several machines: mpirun -n 4 espalier simulate … (docs/scaling.md); SIGUSR1 to mpirun "
      "ends it after a round.\n"
#endif

      "Exit codes: 0 done, 2 the input is wrong, 3 interrupted by Ctrl-C or SIGTERM after a whole "
      "round (go on with --resume), 1 anything else.");
  command->callback([arguments] { simulate(*arguments); });
}

}  // namespace espalier::apps

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <optional>

#include "apps/command.h"
#include "apps/interrupts.h"
#include "espalier/base/error.h"
#include "espalier/base/printable.h"
#include "espalier/base/version.h"
#include "espalier/report/human.h"
#include "espalier/report/text_table.h"
#include "espalier/study/columns.h"
#include "espalier/study/page.h"
#include "espalier/study/places.h"
#ifdef ESPALIER_MPI
#include "espalier/study/rank_places.h"
#endif
#include "espalier/study/runner.h"
#include "espalier/study/study_json.h"

namespace espalier::apps {

namespace {

namespace fs = std::filesystem;

struct StudyArguments {
  std::string file, out, shard = "1/1";
  std::vector<std::string> only, assignments;
  int64_t jobs = 1, threads = 0;
  bool any_build = false, dry_run = false, no_run = false, json = false, markdown = false,
       quiet = false;
};

void print(const Json& value) {
  std::cout << value.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

std::vector<size_t> cells_to_run(const std::vector<study::Found>& found,
                                 const study::Shard& shard) {
  std::vector<size_t> todo;
  for (size_t c = 0; c < found.size(); ++c)
    if (found[c].state != study::CellState::kDone && study::belongs(c, shard)) todo.push_back(c);
  return todo;
}

std::string state_text(const study::Cell& cell, const study::Found& found) {
  if (found.state == study::CellState::kDone) return "done";
  if (found.state == study::CellState::kBegun)
    return concat("begun, ", found.rounds_done, " of ", cell.rounds, " rounds");
  return found.why.empty() ? "new" : "anew: " + found.why;
}

void list_cells(const std::vector<study::Cell>& cells, const std::vector<study::Found>& found,
                const std::vector<size_t>& todo, const StudyArguments& arguments, size_t jobs) {
  const auto all = study::time_left(cells, found, todo, jobs);
  if (arguments.json) {
    print({{"cells", study::cells_json(cells, found)},
           {"to_run", todo.size()},
           {"seconds_left", all ? Json(*all) : Json(nullptr)}});
    return;
  }
  std::vector<std::vector<std::string>> rows = {{"cell", "time left", "state"}};
  for (size_t c = 0; c < cells.size(); ++c) {
    const bool mine = std::find(todo.begin(), todo.end(), c) != todo.end();
    const auto left = study::time_left(cells, found, {c}, 1);
    rows.push_back({cells[c].label,
                    !mine  ? "–"
                    : left ? report::human_seconds(*left)
                           : "unknown",
                    state_text(cells[c], found[c])});
  }
  std::cout << report::text_table(rows) << "\n"
            << todo.size() << " of " << cells.size() << " cells to run"
            << (todo.empty() ? ""
                : all
                    ? concat(", about ", report::human_seconds(*all), " with ", jobs, " at a time")
                    : ", time unknown until a round has been run")
            << "\n";
}

// Of what is finished: study.json, study.html and what is printed.
void tabulate(const study::Study& study, const std::vector<study::Cell>& cells,
              const study::StudyFolder& folder, const StudyArguments& arguments,
              const fs::path& path, const std::map<size_t, std::string>& failed_now) {
  const auto found = study::find_cells(cells, folder.path(), build_id(), arguments.any_build);
  auto failures = failed_now;
  failures.merge(folder.failures(found));
  const study::Results results = study::read_results(study, cells, found, failures, build_id());
  const Json all = study::study_json(study, cells, found, results);
  const std::string text = all.dump(2, ' ', false, Json::error_handler_t::replace) + "\n",
                    page = study::render_page(study, found, results);
  std::vector<std::string> notes;
  try {
    write_text_file_atomic(folder.json_path(), text);
    write_text_file_atomic(folder.page_path(), page);
  } catch (const Error& error) {
    if (!arguments.no_run) throw;
    // Somebody else's folder, to be read.
    notes.push_back(concat("study.json and study.html are left as they were: ", error.what()));
  }
  if (arguments.json) {
    print(all);
  } else if (arguments.markdown) {
    std::cout << study::table_markdown(study, results);
  } else {
    std::cout << study::table_text(study, results) << "\npage  "
              << (path / folder.page_path().filename()).string() << "\n";
  }
  if (arguments.json || arguments.markdown)
    notes.insert(notes.begin(), results.notes.begin(), results.notes.end());
  for (const std::string& note : notes) std::fprintf(stderr, "note: %s\n", printable(note).c_str());
}

void study_command(const StudyArguments& arguments) {
  const study::PlaceOptions here{.jobs = static_cast<size_t>(arguments.jobs),
                                 .threads = static_cast<size_t>(arguments.threads)};
  std::optional<FileLock> lock;  // until what runs has ended, however that comes about
  std::unique_ptr<study::Places> places;
#ifdef ESPALIER_MPI
  study::RankPlaces* ranks = nullptr;
  if (mpi::launched()) {
    auto owned = std::make_unique<study::RankPlaces>(here);
    ranks = owned.get();
    places = std::move(owned);
    if (!ranks->first()) {
      ranks->work();
      return;
    }
  }
#endif
  if (!places) places = std::make_unique<study::LocalPlaces>(here);
  const study::Study study =
      study::read_study(arguments.file, arguments.only, arguments.assignments);
  const std::vector<study::Cell> cells = study::cells_of(study, build_id());
  const study::Shard shard = study::parse_shard(arguments.shard);
  const fs::path path = arguments.out.empty() ? fs::path("runs") / fs::path(arguments.file).stem()
                                              : fs::path(arguments.out);
  if (arguments.dry_run) {
    const auto found = study::find_cells(cells, path, build_id(), arguments.any_build);
    list_cells(cells, found, cells_to_run(found, shard), arguments, places->jobs());
    return;
  }
  const study::StudyFolder folder =
      arguments.no_run ? study::StudyFolder::open(path) : study::StudyFolder::create(path, study);
  if (!arguments.no_run) lock = folder.lock(shard);
  study::Outcome outcome;
  if (!arguments.no_run) {
#ifdef ESPALIER_MPI
    if (ranks) catch_as_interrupt(SIGUSR1);
#endif
    const auto* stop = catch_interrupts(
        "\nStopping after the rounds that are running; once more stops at once.\n");
#ifdef ESPALIER_MPI
    if (ranks) {
      ranks->open(folder, shard);
      if (!arguments.quiet) std::fprintf(stderr, "%s\n", ranks->line().c_str());
    }
#endif
    const auto found = study::find_cells(cells, folder.path(), build_id(), arguments.any_build);
    outcome = study::run_cells(cells, found, cells_to_run(found, shard), folder, *places,
                               {.quiet = arguments.quiet, .stop = stop});
  }
  tabulate(study, cells, folder, arguments, path, outcome.failures);
  if (outcome.interrupted) {
    std::fprintf(stderr, "Stopped. The same command goes on.\n");
    throw Interrupted();
  }
  if (!outcome.failures.empty()) {
    std::fprintf(stderr,
                 "espalier: %zu of %zu cells failed; the same command tries them again (%s)\n",
                 outcome.failures.size(), cells.size(), (path / "logs").c_str());
    throw Failed();
  }
}

std::string column_help() {
  std::string text = "Columns of a table:";
  for (const study::ColumnHelp& column : study::describe_columns())
    text += concat("\n  ", column.name,
                   std::string(13 - std::min<size_t>(column.name.size(), 12), ' '), column.doc);
  return text;
}

}  // namespace

void add_study_command(CLI::App& app) {
  auto arguments = std::make_shared<StudyArguments>();
  CLI::App* command = app.add_subcommand(
      "study", "Run variants of a configuration with several seeds and put them into one table");
  command->add_option("STUDY", arguments->file, "Study (TOML, docs/study.md)")->required();
  command->add_option("--out", arguments->out,
                      "Folder of the study; default runs/<name of the file>");
  CLI::Option* jobs =
      command
          ->add_option(
              "--jobs", arguments->jobs,
              "Runs at a time, which share the threads, of each rank under mpirun; default 1")
          ->check(CLI::Range(1, 1024));
  CLI::Option* threads =
      command
          ->add_option(
              "--threads", arguments->threads,
              "Threads of all runs together, of each rank under mpirun; default: the number "
              "of processors")
          ->check(CLI::Range(1, 4096));
  CLI::Option* shard =
      command->add_option("--shard", arguments->shard,
                          "Run only every n-th cell, from the i-th: i/n, for several machines");
  command
      ->add_option(
          "--only", arguments->only,
          "Only this variant (with a grid also its name there: all its places), and what it is "
          "compared with (repeatable)")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  command
      ->add_option("--set", arguments->assignments,
                   "KEY=VALUE as the last of the study's [set], for all variants that do not set "
                   "it themselves (repeatable)")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  command->add_flag("--any-build", arguments->any_build,
                    "Take finished runs of other builds as they are");
  CLI::Option* dry_run =
      command->add_flag("--dry-run", arguments->dry_run,
                        "Check the study and list its cells with the time that they will take");
  command
      ->add_flag("--no-run", arguments->no_run,
                 "Only the table and the page of the runs that are finished")
      ->excludes(dry_run)
      ->excludes(jobs)
      ->excludes(threads)
      ->excludes(shard);
  CLI::Option* json = command->add_flag("--json", arguments->json,
                                        "Print one JSON object (study.json) instead of a table");
  command->add_flag("--markdown", arguments->markdown, "Print the table for a document")
      ->excludes(json);
  command->add_flag("--quiet", arguments->quiet, "No progress");
  command->footer(
      column_help() +
      "\nExamples:\n"
      "  espalier study bench/studies/smoke.toml\n"
      "  espalier study bench/studies/fd-mnist.toml --dry-run\n"
      "  espalier study bench/studies/fd-mnist.toml --jobs 2\n"
      "  espalier study bench/studies/fd-mnist.toml --no-run --markdown\n"
      "  espalier study bench/studies/fd-mnist.toml --shard 1/2 --out /shared/fd-mnist\n"
#ifdef ESPALIER_MPI
      "  mpirun -n 4 --bind-to none espalier study bench/studies/fd-mnist.toml --out "
      "/shared/fd-mnist\n"
#endif
      "The same command goes on where a stopped or killed one was, and runs only what has "
      "changed.\n"
      "Exit codes: 0 done (always with --no-run), 1 a cell failed, 2 the study is wrong, 3 "
      "interrupted.");
  command->callback([arguments] { study_command(*arguments); });
}

}  // namespace espalier::apps

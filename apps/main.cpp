// The `espalier` command. Exit codes (docs/troubleshooting.md): 0 done, 2 the user's input is
// wrong, 3 interrupted and can be resumed, 1 anything else, such as standard output that cannot be
// written.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "apps/codec_command.h"
#include "apps/command.h"
#include "apps/compare_command.h"
#include "apps/data_command.h"
#include "apps/report_command.h"
#include "espalier/base/detailed_error.h"
#include "espalier/base/version.h"
#include "espalier/models/process.h"
#include "espalier/train/trainer.h"

namespace {

// A result that nobody received is no success, however well it was computed.
int finish(int code) {
  errno = 0;
  const bool written = std::cout.flush().good();
  if (std::fflush(stdout) == 0 && !std::ferror(stdout) && written) return code;
  std::fprintf(stderr, "espalier: cannot write to standard output%s%s\n", errno != 0 ? ": " : "",
               errno != 0 ? std::strerror(errno) : "");
  return code == 0 ? 1 : code;
}

// One line. CLI11 would only say that a command is missing where one is misspelled.
void say_what_is_wrong(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  std::string path = "espalier", text = error.what();
  const CLI::App* at = &app;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.starts_with("-")) continue;
    std::vector<std::string> names;
    for (const CLI::App* command : at->get_subcommands({})) names.push_back(command->get_name());
    if (names.empty()) break;
    if (std::find(names.begin(), names.end(), word) == names.end()) {
      text = espalier::unknown_name_message("command", word, names);
      break;
    }
    at = at->get_subcommand(word);
    path += " " + word;
  }
  std::replace(text.begin(), text.end(), '\n', ' ');
  while (text.ends_with('.') || text.ends_with(' ')) text.pop_back();
  std::fprintf(stderr, "espalier: %s; %s --help shows what there is\n", text.c_str(), path.c_str());
}

int run(int argc, char** argv) {
  espalier::models::configure_process();
  CLI::App app{"Espalier: federated learning for clients short of bandwidth, compute and memory.",
               "espalier"};
  app.set_version_flag("--version", espalier::concat("espalier ", espalier::version(), " (build ",
                                                     espalier::build_id(), ")"));
  app.require_subcommand(1);
  app.footer(
      "Examples:\n"
      "  espalier simulate examples/fashion-mnist.toml\n"
      "  espalier simulate examples/fashion-mnist.toml --set strategy.name=fedprox --set rounds=5\n"
      "  espalier study bench/studies/smoke.toml --jobs 2\n"
      "  espalier compare runs/first runs/second\n"
      "Each subcommand has --help with examples of its own.\n"
      "Exit codes: 0 done, 2 the input is wrong, 3 interrupted (simulate --resume goes on, study "
      "by itself), 1 "
      "anything else; 130 a second Ctrl-C.");
  bool verbose = false;
  try {
    espalier::apps::add_simulate_command(app);
    espalier::apps::add_study_command(app);
    espalier::apps::add_compare_command(app);
    espalier::apps::add_report_command(app);
    espalier::apps::add_evaluate_command(app);
    espalier::apps::add_export_command(app);
    espalier::apps::add_list_command(app);
    espalier::apps::add_data_command(app);
    espalier::apps::add_codec_command(app);
#ifdef ESPALIER_RPC
    espalier::apps::add_serve_command(app);
    espalier::apps::add_join_command(app);
    espalier::apps::add_pki_command(app);
#endif
#ifdef ESPALIER_LIVE
    espalier::apps::add_status_command(app);
#endif
    for (CLI::App* command : app.get_subcommands({})) {
      command->add_flag("--verbose", verbose,
                        "After an error, also what libtorch says of it, in full");
    }
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    // Help and version are "errors" with code 0; a wrong command line is the user's input.
    if (error.get_exit_code() == 0) return app.exit(error);
    say_what_is_wrong(app, error, argc, argv);
    return 2;
  } catch (const espalier::apps::Interrupted&) {
    return 3;
  } catch (const espalier::apps::Failed&) {
    return 1;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr,
                 "espalier: not enough memory on this machine; use a smaller model, batch or "
                 "number of --threads\n");
    return 1;
  } catch (const espalier::Error& error) {
    std::fprintf(stderr, "espalier: %s\n", error.what());
    const auto* detailed = dynamic_cast<const espalier::DetailedError*>(&error);
    if (verbose && detailed != nullptr) std::fprintf(stderr, "%s\n", detailed->detail().c_str());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "espalier: unexpected failure: %s\n", error.what());
    return 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  // A reader that goes away (| head) is an error of a write, not the death of a run.
  std::signal(SIGPIPE, SIG_IGN);
  return finish(run(argc, argv));
}

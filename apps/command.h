#pragma once

#include <CLI/CLI.hpp>

// Each subcommand is one file with a function that adds it to the program.
namespace espalier::apps {

// Thrown by a command that was interrupted, has said so, and can be gone on with: exit code 3.
struct Interrupted {};

// Thrown by a command of which a part has failed, and which has said so: exit code 1.
struct Failed {};

void add_simulate_command(CLI::App& app);
void add_study_command(CLI::App& app);
void add_list_command(CLI::App& app);
void add_evaluate_command(CLI::App& app);
void add_export_command(CLI::App& app);
// Only in a program with the live page (ESPALIER_LIVE).
void add_status_command(CLI::App& app);
// Only in a program with a network (ESPALIER_RPC).
void add_serve_command(CLI::App& app);
void add_join_command(CLI::App& app);
void add_pki_command(CLI::App& app);

}  // namespace espalier::apps

#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace espalier::data {

// Runs a program (found on PATH) with its arguments as they are, no shell in between, in `folder`,
// and waits. Its standard output goes to our standard error, so that `--json` output stays clean.
// Throws Error when it cannot be started or does not end with status 0.
void run_program(const std::vector<std::string>& arguments, const std::filesystem::path& folder);

}  // namespace espalier::data

#pragma once

#include <filesystem>
#include <string>

#include "espalier/base/options.h"
#include "espalier/run/runtimes.h"

namespace espalier::run {

// Writes a trained model as a TorchScript file, whole or not at all: `runtime` "pruned" is the
// smallest network that computes the same, "dense" has every unit; empty: pruned, or dense with a
// note for a model that has no smaller network. Returns what was found out about both on the way,
// as runtimes do, and as "notes" what a person should know of data that differ. Throws Error for a
// file that cannot be written, and in a program without libtorch.
Json export_model(const ModelArguments& arguments, const std::string& runtime,
                  const std::filesystem::path& file);

}  // namespace espalier::run

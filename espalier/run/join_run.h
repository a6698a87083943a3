#pragma once

#include <filesystem>

#include "espalier/data/load.h"

namespace espalier::run {

// A client's own data: train.safetensors and, unless it has none, test.safetensors in a folder, as
// `espalier data export` writes them and docs/data.md describes them. Without a test file the test
// part is empty.
data::LoadedData load_shard(const std::filesystem::path& folder);

}  // namespace espalier::run

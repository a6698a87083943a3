#pragma once

#include <cstdint>
#include <filesystem>

#include "espalier/run/run_config.h"

namespace espalier::run {

// What export_shards() has written.
struct ExportedShards {
  uint64_t clients = 0, samples = 0, test_samples = 0;
};

// Every client's data as a folder of its own, as `espalier join` reads them and as its simulation
// would use them: FOLDER/client-ID/train.safetensors holds its training samples in increasing order
// of the whole set, test.safetensors its share of the test samples (client, client + n, …); it is
// missing where there are none. FOLDER/manifest.json lists who holds how many:
//   {"clients": [{"client": 0, "samples": 600, "test_samples": 100}, …]}
// Throws Error when FOLDER holds something already, or for more than 10,000 clients.
ExportedShards export_shards(const RunConfig& config, const std::filesystem::path& folder);

}  // namespace espalier::run

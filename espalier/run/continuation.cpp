#include "espalier/run/continuation.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/round/checkpoint.h"
#include "espalier/run/sources.h"

namespace espalier::run {

namespace {

// Keys that may differ between a run and its continuation: how long it runs, how often it is looked
// at, and where the files lie whose contents are compared.
std::vector<std::string> free_keys(const RunConfig& config) {
  std::vector<std::string> keys = {"version",        "rounds",           "eval_every",
                                   "eval_batch",     "checkpoint_every", "client_state_mb",
                                   "record_clients", "data.root",        "train.schedule_rounds",
                                   "build"};
  for (const InputFile& input : input_files(config)) keys.push_back(input.key);
  return keys;
}

bool is_free(const std::vector<std::string>& keys, const std::string& key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

// Every other key with its value.
std::map<std::string, Json> kept_values(const RunConfig& config) {
  std::map<std::string, Json> values;
  const auto keys = free_keys(config);
  const std::function<void(const Json&, const std::string&)> walk = [&](const Json& tree,
                                                                        const std::string& path) {
    for (const auto& [name, value] : tree.items()) {
      const std::string key = path.empty() ? name : path + "." + name;
      if (value.is_object()) {
        walk(value, key);
      } else if (!is_free(keys, key)) {
        values[key] = value;
      }
    }
  };
  walk(config.resolved, "");
  return values;
}

}  // namespace

uint64_t configuration_fingerprint(const RunConfig& config) {
  return round::fingerprint(Json(kept_values(config)).dump());
}

void refuse_changes(const RunConfig& now, const report::RunFolder& folder) {
  const RunConfig before = read_run_config(read_toml_file(folder.config_path()));
  const auto old_values = kept_values(before), new_values = kept_values(now);
  const auto text = [](const std::map<std::string, Json>& values, const std::string& key) {
    const auto found = values.find(key);
    return found == values.end() ? std::string("absent") : found->second.dump();
  };
  std::set<std::string> keys;
  for (const auto* values : {&old_values, &new_values})
    for (const auto& [key, value] : *values) keys.insert(key);
  for (const std::string& key : keys) {
    if (text(old_values, key) == text(new_values, key)) continue;
    fail("simulate", key, " was ", text(old_values, key), " in the rounds before and is ",
         text(new_values, key),
         " now; a run goes on with the same configuration but for rounds, "
         "train.schedule_rounds, eval_every, eval_batch, checkpoint_every and client_state_mb");
  }
}

}  // namespace espalier::run

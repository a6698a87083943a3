#include "espalier/run/network_config.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <system_error>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/report/run_folder.h"

namespace espalier::run {

namespace {

// A run's configuration has every key, and paths that were made absolute.
bool same_setting(const Json& asked, const Json& has) {
  if (asked.is_object() && has.is_object())
    return std::ranges::all_of(asked.items(), [&](const auto& entry) {
      return has.contains(entry.key()) && same_setting(entry.value(), has[entry.key()]);
    });
  if (asked.is_array() && has.is_array())
    return std::equal(asked.begin(), asked.end(), has.begin(), has.end(), same_setting);
  if (asked == has || !asked.is_string() || !has.is_string()) return asked == has;
  const auto path = std::filesystem::absolute(asked.get<std::string>()).lexically_normal();
  return path == has.get<std::string>();
}

}  // namespace

NetworkConfig read_network_config(const Json& tree) {
  NetworkConfig config;
  const ConfigSection root{&tree, ""};
  read_options(root.section("server"), {}, config.server);
  read_options(root.section("network"), {}, config.network);
  read_options(root.section("security"), {}, config.security);
  SecuritySection& security = config.security;
  if (!security.pki.empty()) {
    const std::filesystem::path folder = security.pki;
    const auto fill = [&](std::string& path, const char* name) {
      if (path.empty()) path = (folder / name).string();
    };
    fill(security.ca, "ca.pem");
    fill(security.cert, "server.pem");
    fill(security.key, "server.key");
    fill(security.revoked, "index.json");
  }
  if (config.server.over_selection > 0 && config.server.over_selection < 1)
    fail("config",
         "server.over_selection: expected 0 (by the measured drop-out) or at least 1, got ",
         config.server.over_selection);
  const NetworkSection& network = config.network;
  if (network.lease_s <= network.heartbeat_s || network.lease_s <= network.poll_s)
    fail("config", "network.lease_s = ", network.lease_s,
         " has to be above network.heartbeat_s = ", network.heartbeat_s,
         " and network.poll_s = ", network.poll_s, ": a client that works is not lost");
  return config;
}

void write_network_config(const NetworkConfig& config, Json& tree) {
  write_options(config.server, tree["server"] = Json::object());
  write_options(config.network, tree["network"] = Json::object());
  write_options(config.security, tree["security"] = Json::object());
}

void use_pki(const std::filesystem::path& folder, Json& tree) {
  set_config_value(tree, Assignment{"security.pki", folder.string()});
  for (const char* file : {"ca", "cert", "key", "revoked", "federation"})
    set_config_value(tree, Assignment{concat("security.", file), ""});
}

std::vector<std::string> take_network(Json file, const std::string& name,
                                      const std::vector<std::string>& assignments, Json& run) {
  std::vector<std::string> notes;
  std::set<std::string> assigned;
  for (const std::string& text : assignments) assigned.insert(parse_assignment(text).key);
  const auto compare = [&](auto&& self, const Json& asked, const Json& has,
                           const std::string& prefix) -> void {
    for (const auto& [key, value] : asked.items()) {
      const auto found = has.find(key);
      if (found == has.end() || assigned.contains(prefix + key)) continue;
      if (value.is_object() && found->is_object()) {
        self(self, value, *found, concat(prefix, key, "."));
      } else if (!same_setting(value, *found)) {
        notes.push_back(concat(name, " says ", prefix, key, " = ", value.dump(),
                               ", and the run goes on with ", found->dump()));
      }
    }
  };
  for (const char* section : {"server", "network", "security"}) {
    run.erase(section);
    if (file.contains(section)) run[section] = file[section];
  }
  for (const char* section : {"server", "network", "security", "client"}) file.erase(section);
  compare(compare, file, run, "");
  return notes;
}

void clear_failed_start(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  constexpr std::array<std::string_view, 4> kOurs = {"run", "registry.jsonl", "events.jsonl",
                                                     "spool"};
  constexpr std::array<std::string_view, 2> kHere = {"server", report::RunFolder::kLock};
  const auto holds_only = [](const fs::path& path, const auto& names) {
    std::error_code error;
    fs::directory_iterator entries(path, error);
    return !error && std::ranges::all_of(entries, [&](const fs::directory_entry& entry) {
      return std::ranges::find(names, entry.path().filename().string()) != names.end();
    });
  };
  // Looked at before the lock, whose file would stay in somebody's folder.
  const fs::path server = folder / "server";
  if (!holds_only(folder, kHere) || !holds_only(server, kOurs)) return;
  std::string holder;
  const auto lock = FileLock::try_take(folder / report::RunFolder::kLock, holder);
  std::error_code ignored;
  if (lock) fs::remove_all(server, ignored);  // else another process is about to begin
}

}  // namespace espalier::run

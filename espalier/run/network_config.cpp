#include "espalier/run/network_config.h"

#include "espalier/base/error.h"

namespace espalier::run {

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

bool is_loopback(const std::string& listen) {
  const std::string host = listen.substr(0, listen.rfind(':'));
  return host.starts_with("127.") || host == "localhost" || host == "[::1]";
}

}  // namespace espalier::run

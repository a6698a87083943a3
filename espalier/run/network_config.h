#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "espalier/base/options.h"

// The sections of a configuration that speak of the network. A simulation leaves them alone, so
// that one file serves `espalier simulate` and `espalier serve`.
namespace espalier::run {

// [server]
struct ServerSection {
  std::string listen = "127.0.0.1:8443";
  double enrol_deadline_s = 600, round_deadline_s = 3600, goodbye_s = 10, drain_s = 30;
  std::string population = "fixed";
  double min_fraction = 0.8, over_selection = 0, select_window_s = 60;
  int64_t max_attempts = 5;
  int64_t threads = 0;
  std::string status_listen = "127.0.0.1:9464", status_token_file;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("listen", self.listen,
          Field("Address and port; other machines reach 0.0.0.0:8443, say, and not 127.0.0.1."));
    visit("enrol_deadline_s", self.enrol_deadline_s,
          Field("fixed: seconds within which every client has to join before the first round.")
              .above(0)
              .at_most(365 * 86'400));
    visit("round_deadline_s", self.round_deadline_s,
          Field("Seconds after which who has not answered a round has failed in it.")
              .above(0)
              .at_most(365 * 86'400));
    visit("population", self.population,
          Field("fixed: every client joins before the first round, and the run ends in a "
                "simulation's bytes; open: clients come and go, and a round draws among those that "
                "are there.")
              .one_of({"fixed", "open"}));
    visit("over_selection", self.over_selection,
          Field("open: so many times the clients of a round are asked, 1 or more, and the first of "
                "them that answer are enough; 0: 1.3 times as many at first, then as many as the "
                "share of clients that were seen to drop out asks for.")
              .at_least(0)
              .at_most(100));
    visit("select_window_s", self.select_window_s,
          Field("open: seconds for which a round waits for that many; then min_fraction of its "
                "clients are enough.")
              .at_least(0)
              .at_most(86'400));
    visit("min_fraction", self.min_fraction,
          Field("Share of a round's clients that have to answer for it to count; with fewer it is "
                "repeated: a fixed population's with the same clients and the same bytes.")
              .at_least(0)
              .at_most(1));
    visit("max_attempts", self.max_attempts,
          Field("How often a round is tried before the run ends with the names of who is missing.")
              .at_least(1)
              .at_most(1'000'000));
    visit("drain_s", self.drain_s,
          Field("Seconds that a round in progress has to end in when the server is stopped; then "
                "it is left, and repeated by --resume.")
              .at_least(0)
              .at_most(86'400));
    visit(
        "goodbye_s", self.goodbye_s,
        Field("Seconds for which the server stays after the last round, so that clients which are "
              "away just then hear that it was the last.")
            .at_least(0)
            .at_most(86'400));
    visit("threads", self.threads,
          Field("Threads that encode, decode, add and evaluate; 0: one per processor.")
              .at_least(0)
              .at_most(4096));
    visit("status_listen", self.status_listen,
          Field("Where the live page, /status.json and /metrics are; port 0: a free one; empty: "
                "nowhere. An address that others reach needs status_token_file."));
    visit("status_token_file", self.status_token_file,
          Field("File with the token that readers of /status.json and /metrics have to send.")
              .path());
  }
};

// [network]
struct NetworkSection {
  int64_t chunk_kb = 256, window_kb = 1024, max_uploads = 64, max_update_mb = 0, memory_mb = 512,
          spool_mb = 4096;
  double poll_s = 50, heartbeat_s = 30, lease_s = 90, keepalive_s = 60, stall_s = 300;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("chunk_kb", self.chunk_kb,
          Field("Bytes that travel in one message, in KiB; clients are told.")
              .at_least(4)
              .at_most(4096));
    visit(
        "window_kb", self.window_kb,
        Field("Bytes of a stream that are read ahead, in KiB; a stream's rate is at most that per "
              "round trip.")
            .at_least(64)
            .at_most(65536));
    visit("max_uploads", self.max_uploads,
          Field("Updates that arrive at a time; other clients are told to come back.")
              .at_least(1)
              .at_most(100'000));
    visit("max_update_mb", self.max_update_mb,
          Field("Longest update that is taken, in MB; 0: by the model, what eight times its values "
                "take and 16 MB (1024 MB where features travel and not weights).")
              .at_least(0)
              .at_most(1 << 20));
    visit("memory_mb", self.memory_mb,
          Field("Memory for connections, in MB.").at_least(16).at_most(1 << 20));
    visit("spool_mb", self.spool_mb,
          Field("Disk for updates of rounds that are not in a checkpoint yet, in MB: a server that "
                "starts again does not ask for these a second time.")
              .at_least(0)
              .at_most(1 << 20));
    visit("poll_s", self.poll_s,
          Field("Seconds that a client without a task waits for one before it asks again.")
              .at_least(1)
              .at_most(3600));
    visit("heartbeat_s", self.heartbeat_s,
          Field("Seconds between two signs of life of a client that trains.")
              .at_least(0.1)
              .at_most(3600));
    visit("lease_s", self.lease_s,
          Field("Seconds that a silent process still counts as its client; another one that claims "
                "to be it is refused meanwhile.")
              .at_least(1)
              .at_most(86'400));
    visit("keepalive_s", self.keepalive_s,
          Field("Seconds after which a silent connection is tried.").at_least(10).at_most(3600));
    visit("stall_s", self.stall_s,
          Field("Seconds within which a transfer has to move one chunk; else it is ended and goes "
                "on where it was. 0: no limit.")
              .at_least(0)
              .at_most(86'400));
  }
};

// [security]
struct SecuritySection {
  std::string pki, ca, cert, key, revoked, federation;
  int64_t max_samples = int64_t{1} << 20;
  double checkins_per_s = 1, calls_per_s = 500;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("pki", self.pki,
          Field("Folder that `espalier pki init` has made: the four files below at once.").path());
    visit("ca", self.ca, Field("The federation's CA (PEM).").path());
    visit("cert", self.cert, Field("The server's certificate (PEM).").path());
    visit("key", self.key, Field("Its key (PEM, readable for its owner alone).").path());
    visit(
        "revoked", self.revoked,
        Field("index.json of `espalier pki`, which says whose certificates count no more.").path());
    visit("federation", self.federation,
          Field("The name in the clients' certificates; empty: that of index.json."));
    visit("max_samples", self.max_samples,
          Field("Most samples that a client may state.").at_least(1).at_most(int64_t{1} << 32));
    visit("checkins_per_s", self.checkins_per_s,
          Field("Check-ins of one client per second, on average; five times as many at once; 0: no "
                "limit.")
              .at_least(0));
    visit("calls_per_s", self.calls_per_s, Field("The same of all its calls.").at_least(0));
  }
};

struct NetworkConfig {
  ServerSection server;
  NetworkSection network;
  SecuritySection security;
};
// Of a configuration's tree; [client] is the clients' own and not looked at. Throws Error for
// unknown keys and values out of range.
NetworkConfig read_network_config(const Json& tree);
// The sections with every key, for a run's config.toml.
void write_network_config(const NetworkConfig& config, Json& tree);

// security.pki of a configuration, in place of files that it has named before.
void use_pki(const std::filesystem::path& folder, Json& tree);

// A service that starts again with its configuration file: the sections above are the file's, for
// they may change; all else is the run's, and a note for each key that differs says so, but for
// those that `assignments` ("key=value") set besides.
std::vector<std::string> take_network(Json file, const std::string& name,
                                      const std::vector<std::string>& assignments, Json& run);

// Of a start of a service that came to nothing before there was a run, in the folder that is to be
// the run's: removes server/ with what ServeRun writes there. What anybody else has put into the
// folder or into server/ keeps all of it.
void clear_failed_start(const std::filesystem::path& folder);

}  // namespace espalier::run

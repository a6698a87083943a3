#pragma once

#include <csignal>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "espalier/report/progress.h"
#include "espalier/report/run_folder.h"
#include "espalier/rpc/revocations.h"
#include "espalier/rpc/server.h"
#include "espalier/run/event_log.h"
#include "espalier/run/network_config.h"
#include "espalier/run/simulation.h"
#include "espalier/serve/network_backend.h"

namespace espalier::run {

// A run whose clients are devices: the same loop, folder and figures as a simulation's, with a
// backend that listens. The server has the data set of the configuration for its evaluation and for
// what samples look like; it trains on none of it.
class ServeRun {
 public:
  // Everything that can be wrong with configuration, data or certificates shows here; then it
  // listens. `insecure`: without certificates, on loopback alone. `folder` outlives this.
  // `show_events`: on standard error too. When `stop` becomes nonzero, the round in progress has
  // server.drain_s to end.
  ServeRun(RunConfig config, const NetworkConfig& network, bool insecure, size_t num_threads,
           report::RunFolder& folder, const volatile std::sig_atomic_t* stop, bool show_events,
           const std::vector<std::string>& assignments = {});
  ~ServeRun();

  Simulation& simulation() { return *simulation_; }
  uint16_t port() const { return server_->port(); }
  serve::NetworkBackend& backend() { return *backend_; }
  // False when `stop` became nonzero before everybody was there.
  bool wait_for_clients(const std::function<void(uint64_t, uint64_t)>& tell);
  // Runs the rounds, repeating those that too few have answered.
  void run(report::Progress* progress);
  // Tells clients how it ended and stops listening.
  void finish(bool completed, const std::string& reason);
  // Stops listening in the middle of a run that can be gone on with: clients wait for the server.
  void go_away();

 private:
  NetworkConfig network_;
  const volatile std::sig_atomic_t* stop_;
  EventLog events_;
  std::unique_ptr<rpc::Revocations> revocations_;
  std::unique_ptr<serve::NetworkBackend> backend_;
  std::optional<Simulation> simulation_;
  std::unique_ptr<rpc::Server> server_;  // before the backend that it calls
};

}  // namespace espalier::run

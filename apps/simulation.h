#pragma once

#include <csignal>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "espalier/base/clock.h"
#include "espalier/base/options.h"
#include "espalier/report/progress.h"
#include "espalier/report/run_folder.h"
#include "espalier/round/round_loop.h"
#include "espalier/round/run_config.h"
#include "espalier/sim/sim_backend.h"
#include "espalier/sim/state_store.h"

namespace espalier::apps {

// One simulated run from configuration to summary: the glue between the round loop, the simulator
// and the run folder. Used by `espalier simulate` and by the benchmarks.
class Simulation {
 public:
  // Loads the data, partitions it and makes the model; everything that can be wrong with a
  // configuration shows here.
  Simulation(round::RunConfig config, size_t num_threads);

  // Where to write; without it nothing is written. Before run() or resume(); must outlive this.
  void attach(report::RunFolder& folder);

  // Goes on from the folder's checkpoint.
  void resume();
  // Runs until the last round, or until `stop` becomes nonzero: then the round in progress is
  // finished. Every round is written to the folder and shown by `progress`.
  void run(report::Progress* progress, const volatile std::sig_atomic_t* stop);

  // One round, without folder and progress: for benchmarks.
  round::RoundRecord step() { return loop_->run_round(); }

  // What a person should know before the run: layers whose units could not be found out.
  std::vector<std::string> notes() const;
  bool finished() const { return loop_->finished(); }
  Json summary() const;
  const round::RoundLoop& loop() const { return *loop_; }
  const data::DataSource& data() const { return data_; }
  const data::Partition& partition() const { return *partition_; }

 private:
  strategy::ServerSetup server_setup() const;
  void check_device_memory() const;
  void write_checkpoint();
  void write_model() const;
  void write_clients() const;
  double wall_seconds() const;
  uint64_t peak_bytes() const;
  Json metrics_line(const round::RoundRecord& record) const;

  round::RunConfig config_;
  report::RunFolder* folder_ = nullptr;
  data::DataSource data_;
  std::unique_ptr<data::Partition> partition_;
  std::unique_ptr<strategy::Strategy> strategy_;
  std::unique_ptr<codec::Codec> downlink_, uplink_;
  std::unique_ptr<sim::SimStateStore> states_;
  std::unique_ptr<sim::SimBackend> backend_;
  std::unique_ptr<round::RoundLoop> loop_;
  uint64_t configuration_;
  uint64_t parameters_ = 0;
  std::map<std::string, double> last_shares_;  // of what the strategy measured, for the summary
  uint64_t peak_before_ = 0;                   // memory of the processes before this one
  std::map<double, double> last_widths_;       // accuracies of submodel.eval_widths
  uint32_t checkpointed_ = 0;
  size_t num_threads_;
  Stopwatch wall_;
  double wall_before_ = 0;  // of the processes before this one, for a resumed run
};

}  // namespace espalier::apps

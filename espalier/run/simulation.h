#pragma once

#include <csignal>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "espalier/base/clock.h"
#include "espalier/base/options.h"
#include "espalier/report/progress.h"
#include "espalier/report/run_folder.h"
#include "espalier/round/round_loop.h"
#include "espalier/run/assembly.h"
#include "espalier/run/run_config.h"

namespace espalier::run {

// What others do for a simulation that is more than this process.
struct SimulationHooks {
  // As in Assembly::Options: what they give carries the tasks, and evaluates.
  std::function<round::Backend&(round::Backend& simulator)> wrap = {};
  std::function<train::Evaluator&(train::WorkersEvaluator& here)> wrap_evaluator = {};
  LoadData load = {};
  // For the summary and estimates: processes, and how many clients they train at a time in all
  // (empty: this one's threads).
  size_t processes = 1;
  std::function<size_t()> clients_at_a_time = {};
};

// One simulated run from configuration to summary: the glue between the round loop, the simulator
// and the run folder. Used by `espalier simulate` and by the benchmarks.
class Simulation {
 public:
  // Loads the data, partitions it and makes the model; everything that can be wrong with a
  // configuration shows here. `folder`: where the run is written, or goes on (it then holds a
  // configuration); null: the run leaves nothing. Must outlive this. Nothing but scratch files is
  // written there before run().
  // `assignments`: what was said over the folder's configuration ("key=value").
  // `hooks`: of runs on more than this process.
  Simulation(RunConfig config, size_t num_threads, report::RunFolder* folder = nullptr,
             const std::vector<std::string>& assignments = {}, SimulationHooks hooks = {});

  // Goes on from the folder's checkpoint.
  void resume();
  // Runs until the last round, or until `stop` becomes nonzero: then the round in progress is
  // finished. Every round is written to the folder and shown by `progress`.
  void run(report::Progress* progress, const volatile std::sig_atomic_t* stop);

  // Called by run(), from its thread or (clients answered, of the round's) from any: for who looks
  // on besides `progress`.
  std::function<void(const Json& line)> on_round;
  std::function<void(const std::string& note)> on_note;
  std::function<void(uint64_t done, uint64_t total)> on_clients;
  // What to do when a round came to nothing. Without it the run fails.
  enum class AfterFailure : uint8_t { kRepeat, kStop, kFail };
  std::function<AfterFailure(const round::RoundFailed& why)> on_round_failed;

  // One round, without folder and progress: for benchmarks.
  round::RoundRecord step() { return loop().run_round(); }

  // The whole configuration, for the run's folder.
  const Json& resolved() const { return config_.resolved; }
  // As it was read, with the files that this run uses.
  const RunConfig& config() const { return config_; }
  // What a person should know before the run (after resume(), where it goes on), a line each:
  // guesses about the data, defaults that gave way, layers whose units could not be found out. Also
  // in the summary.
  std::vector<std::string> notes() const;
  // Parameters, bytes of a message and memory, in one line.
  std::string size_line() const;
  // Lines of the rounds that the folder has; empty before the first and without a folder.
  std::vector<Json> completed_rounds() const;
  bool finished() const { return loop().finished(); }
  Json summary() const;
  const round::RoundLoop& loop() const { return assembly_->loop(); }
  round::RoundLoop& loop() { return assembly_->loop(); }
  const data::DataSource& data() const { return assembly_->data(); }
  const data::Partition& partition() const { return assembly_->partition(); }

 private:
  size_t clients_at_a_time() const;
  // Empty when the run is to stop.
  std::optional<round::RoundRecord> next_round(const volatile std::sig_atomic_t* stop);
  void check_device_memory() const;
  void note_duration(report::Progress& progress, uint64_t clients) const;
  void write_checkpoint();
  void write_model();
  void write_clients() const;
  double wall_seconds() const;
  uint64_t peak_bytes() const;
  void write_ids(const std::vector<uint64_t>& ids, const char* what, uint32_t round,
                 Json& line) const;
  Json metrics_line(const round::RoundRecord& record) const;

  RunConfig config_;
  SimulationHooks hooks_;
  report::RunFolder* folder_ = nullptr;
  std::optional<Assembly> assembly_;  // always set once constructed
  uint64_t configuration_;
  std::vector<std::string> notes_;
  Json last_classes_ = Json::object();  // of the last evaluation, for the summary
  RunSizes sizes_;
  // Of what a strategy's own model has beside the clients' net.
  std::optional<int64_t> server_parameters_;
  uint64_t values_ = 0;  // of the model as it begins: trained ones, statistics and counters
  std::map<std::string, double> last_shares_;  // of what the strategy measured, for the summary
  uint64_t peak_before_ = 0;                   // memory of the processes before this one
  std::map<double, double> last_widths_;       // accuracies of submodel.eval_widths
  std::optional<uint32_t> checkpointed_;       // the round of the checkpoint that was written last
  size_t num_threads_;
  Stopwatch wall_;
  double wall_before_ = 0;  // of the processes before this one, for a resumed run
};

}  // namespace espalier::run

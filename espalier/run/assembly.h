#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>

#include "espalier/client/state_store.h"
#include "espalier/codec/codec.h"
#include "espalier/data/dataset.h"
#include "espalier/data/partition.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/params/parameter_set.h"
#include "espalier/round/round_loop.h"
#include "espalier/run/run_config.h"
#include "espalier/run/sources.h"
#include "espalier/sim/sim_backend.h"
#include "espalier/train/workers.h"

namespace espalier::run {

// The parts of a run on this machine, put together from a configuration: strategy and codecs, the
// clients and their backend, the evaluator, and the loop over all of them. The one place that knows
// how they are joined.
class Assembly {
 public:
  struct Options {
    size_t num_threads = 1;
    // For what does not fit into memory, and for what clients remember; made when they are needed.
    // Without them the system's temporary folder serves, and clients remember in memory alone.
    std::filesystem::path scratch = {}, states = {};
    // May put a backend of the caller's, which outlives the assembly, before the simulator's.
    std::function<round::Backend&(round::Backend& simulator)> wrap = {};
    // The same for evaluations.
    std::function<train::Evaluator&(train::WorkersEvaluator& here)> wrap_evaluator = {};
  };
  // Throws Error when parts of the configuration do not go together. Not movable: the parts point
  // to each other.
  Assembly(const RunConfig& config, Sources sources, const Options& options);
  Assembly(const Assembly&) = delete;
  Assembly& operator=(const Assembly&) = delete;

  round::RoundLoop& loop() { return *loop_; }
  const round::RoundLoop& loop() const { return *loop_; }
  strategy::Strategy& strategy() { return *strategy_; }
  const strategy::Strategy& strategy() const { return *strategy_; }
  const data::DataSource& data() const { return data_; }
  const data::Partition& partition() const { return *partition_; }
  const codec::Codec& downlink() const { return *downlink_; }
  const codec::Codec& uplink() const { return *uplink_; }
  // What the model has besides the parameters that are trained.
  const train::FixedTensors& fixed() const { return fixed_; }
  // What a person should know before the first round.
  const std::vector<std::string>& notes() const { return notes_; }
  // What the simulated clients remember.
  client::StateStore& states() { return states_; }
  // A replica of the whole model.
  std::unique_ptr<train::Trainer> make_trainer(std::span<const int64_t> units = {}) const;

 private:
  void check_codecs(const std::shared_ptr<const ParameterLayout>& layout);

  models::ModelOptions model_;
  train::HardwareOptions hardware_;
  data::DataSource data_;
  train::FixedTensors fixed_;
  std::vector<std::string> notes_;
  std::unique_ptr<data::Partition> partition_;
  std::unique_ptr<strategy::Strategy> strategy_;
  std::unique_ptr<codec::Codec> downlink_, uplink_;
  client::StateStore states_;
  std::unique_ptr<train::Workers> workers_;
  std::unique_ptr<train::WorkersEvaluator> evaluator_;
  std::unique_ptr<sim::SimBackend> simulator_;
  std::unique_ptr<round::RoundLoop> loop_;
};

}  // namespace espalier::run

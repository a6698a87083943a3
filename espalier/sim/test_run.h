#pragma once

#include <functional>

#include "espalier/base/config.h"
#include "espalier/codec/codec.h"
#include "espalier/round/round_loop.h"
#include "espalier/round/run_config.h"
#include "espalier/sim/sim_backend.h"
#include "espalier/sim/state_store.h"

// A whole run without files, for tests.
namespace espalier::sim {

inline constexpr const char* kConfig = R"(
rounds = 4
eval_batch = 64
[data]
name = "synthetic"
synthetic_train_samples = 600
synthetic_test_samples = 200
synthetic_shape = [12]
synthetic_noise = 0.5
[data.partition]
name = "dirichlet"
clients = 12
min_samples = 5
[model]
name = "mlp"
hidden = [16]
[train]
lr = 0.1
[strategy]
clients_per_round = 5
)";

// A run without files.
class TestRun {
 public:
  // `wrap` may put a backend of its own around the simulator's, which it must outlive.
  using Wrap = std::function<round::Backend&(round::Backend&)>;
  TestRun(const std::string& strategy_name, size_t threads,
          const std::vector<std::string>& assignments = {}, const Wrap& wrap = {}) {
    Json tree = parse_toml(kConfig, "test");
    set_config_value(tree, "strategy.name=" + strategy_name);
    for (const auto& assignment : assignments) set_config_value(tree, assignment);
    config_ = round::read_run_config(tree);
    strategy_ = round::make_strategy(config_);
    downlink_ = codec::make_codec(config_.downlink, "downlink");
    uplink_ = codec::make_codec(config_.uplink, "uplink");
    data_ = data::load_dataset(config_.data, Key(1));
    partition_ = data::make_partition(config_.partition, *data_.train, Key(2));
    train::configure_process();
    const auto trainer =
        train::make_trainer(config_.model, train::spec_of(*data_.train), "fp32", "cpu");
    ParameterSet initial(trainer->layout());
    trainer->initialize(Key(3), initial);
    const round::Feedback feedback = round::choose_feedback(
        config_.run.error_feedback, *uplink_, *strategy_, config_.submodel, config_.devices);
    round::ClientEnvironment environment{
        *strategy_, *downlink_,
        *uplink_,   {initial.shared_layout(), round::max_task_values(initial.layout())},
        &states_,   nullptr,
        feedback};
    backend_ = std::make_unique<SimBackend>(SimBackend::Setup{data_, *partition_, config_.model,
                                                              config_.train, threads,
                                                              config_.run.eval_batch, environment});
    round::Backend& backend = wrap ? wrap(*backend_) : *backend_;
    strategy::ServerSetup server;
    server.data = train::spec_of(*data_.train);
    server.model = config_.model;
    server.num_threads = threads;
    loop_ = std::make_unique<round::RoundLoop>(
        round::RoundLoop::Setup{config_.run, config_.selection, config_.train, *strategy_,
                                *downlink_, *uplink_, backend, &states_, config_.submodel,
                                config_.devices, server},
        std::move(initial));
  }
  round::RoundLoop& loop() { return *loop_; }
  std::vector<float> finish() {
    while (!loop_->finished()) last_ = loop_->run_round();
    // What a strategy keeps of its own is part of the result too.
    std::vector<float> all(loop_->global().values().begin(), loop_->global().values().end());
    for (const auto& [name, part] : strategy_->model_parts())
      all.insert(all.end(), part.values().begin(), part.values().end());
    return all;
  }
  const round::RoundRecord& last() const { return last_; }
  round::RoundRecord step() { return last_ = loop_->run_round(); }
  SimStateStore& states() { return states_; }
  const data::DataSource& data() const { return data_; }
  const data::Partition& partition() const { return *partition_; }
  std::unique_ptr<train::Trainer> trainer() const {
    return train::make_trainer(config_.model, train::spec_of(*data_.train), "fp32", "cpu");
  }

 private:
  round::RunConfig config_;
  std::unique_ptr<strategy::Strategy> strategy_;
  std::unique_ptr<codec::Codec> downlink_, uplink_;
  data::DataSource data_;
  std::unique_ptr<data::Partition> partition_;
  SimStateStore states_{1 << 30};
  std::unique_ptr<SimBackend> backend_;
  std::unique_ptr<round::RoundLoop> loop_;
  round::RoundRecord last_;
};

}  // namespace espalier::sim

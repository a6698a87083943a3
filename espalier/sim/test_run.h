#pragma once

#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>

#include "espalier/base/config.h"
#include "espalier/models/make_trainer.h"
#include "espalier/run/assembly.h"
#include "espalier/run/run_config.h"
#include "espalier/sim/loopback.h"

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

// A run without files. With ESPALIER_LOOPBACK in the environment, its messages pass through bytes
// (loopback.h): the same tests then speak of a network.
class TestRun {
 public:
  // `wrap` may put a backend of its own around the simulator's, which it must outlive.
  using Wrap = std::function<round::Backend&(round::Backend&)>;
  TestRun(const std::string& strategy_name, size_t threads,
          const std::vector<std::string>& assignments = {}, const Wrap& wrap = {}) {
    Json tree = parse_toml(kConfig, "test");
    set_config_value(tree, "strategy.name=" + strategy_name);
    run::override_config(tree, assignments);
    config_ = run::read_run_config(tree);
    run::Sources sources;
    sources.data = data::load_dataset(config_.data, Key(1));
    sources.partition = data::make_partition(config_.partition, *sources.data.train, Key(2));
    const auto trainer = models::make_trainer(config_.model, train::spec_of(*sources.data.train),
                                              config_.train.hardware);
    sources.initial = ParameterSet(trainer->layout());
    trainer->initialize(Key(3), sources.initial);
    run::Assembly::Options options{.num_threads = threads};
    options.wrap = [&](round::Backend& simulator) -> round::Backend& {
      round::Backend* backend = &simulator;
      if (std::getenv("ESPALIER_LOOPBACK") != nullptr) backend = &loopback_.emplace(*backend);
      return wrap ? wrap(*backend) : *backend;
    };
    assembly_ = std::make_unique<run::Assembly>(config_, std::move(sources), options);
  }
  round::RoundLoop& loop() { return assembly_->loop(); }
  std::vector<float> finish() {
    while (!loop().finished()) last_ = loop().run_round();
    // What a strategy keeps of its own is part of the result too.
    std::vector<float> all(loop().global().values().begin(), loop().global().values().end());
    if (const auto* own = assembly_->strategy().capabilities().own_model; own != nullptr) {
      for (const auto& [name, part] : own->parts())
        all.insert(all.end(), part.values().begin(), part.values().end());
    }
    return all;
  }
  const round::RoundRecord& last() const { return last_; }
  round::RoundRecord step() { return last_ = loop().run_round(); }
  client::StateStore& states() { return assembly_->states(); }
  const data::DataSource& data() const { return assembly_->data(); }
  const data::Partition& partition() const { return assembly_->partition(); }
  std::unique_ptr<train::Trainer> trainer() const { return assembly_->make_trainer(); }

 private:
  run::RunConfig config_;
  std::optional<LoopbackBackend> loopback_;
  std::unique_ptr<run::Assembly> assembly_;
  round::RoundRecord last_;
};

}  // namespace espalier::sim

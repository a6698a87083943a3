#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <vector>

#include "espalier/data/load.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/strategy/strategy.h"
#include "espalier/strategy/test_client_half.h"

namespace espalier::strategy {

// A client with a small net on synthetic data, for what the toy trainer cannot show.
class ClientTest : public testing::Test {
 protected:
  void draw_data(std::vector<int64_t> shape, size_t count) {
    data::DataOptions options;
    options.name = "synthetic";
    options.synthetic_train_samples = static_cast<int64_t>(count);
    options.synthetic_test_samples = 10;
    options.synthetic_shape = std::move(shape);
    data_ = data::load_dataset(options, Key(1));
    samples_.resize(count);
    std::iota(samples_.begin(), samples_.end(), 0u);
  }
  // Of model_, with fresh weights.
  void make_trainer() {
    trainer_ = models::make_trainer(model_, train::spec_of(*data_.train), {});
    weights_ = std::make_shared<ParameterSet>(trainer_->layout());
    trainer_->initialize(Key(2), *weights_);
  }
  // The client half that the strategy asks for, run on `task` with the weights.
  Update run(Strategy& strategy, Task task) {
    const RoundInfo info{
        .round = task.round, .num_rounds = 10, .train = task.train, .kind = task.kind};
    strategy.configure(info, weights_, task);
    client::ClientContext context{*trainer_, *data_.train, samples_, Key(7), nullptr, {}};
    return run_client(context, task);
  }

  data::DataSource data_;
  models::ModelOptions model_;
  std::unique_ptr<train::Trainer> trainer_;
  std::shared_ptr<ParameterSet> weights_;
  std::vector<uint32_t> samples_;
};

}  // namespace espalier::strategy

#include "espalier/strategy/adp.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/nn/gates.h"
#include "espalier/strategy/salient_trainer.h"
#include "espalier/strategy/test_client.h"

namespace espalier::strategy {
namespace {

class AdpClientTest : public ClientTest {
 protected:
  void SetUp() override {
    ClientTest::SetUp();
    draw_data({1, 12, 12}, 60);
    model_.name = "cnn";
    model_.width = 0.25;
    task_.round = 1;
    task_.train.weight_decay = 0.01;
    task_.train.epochs = 2;
  }
  void make(const std::string& gates) {
    model_.gates = gates;
    make_trainer();
  }
  Update run(const AdpOptions& options) {
    Adp strategy(options);
    return ClientTest::run(strategy, task_);
  }

  Task task_;
};

// Two filters of conv2 whose gates cannot fire: their rows stay as they are, weight decay or not,
// and do not travel.
TEST_F(AdpClientTest, FiltersThatNeverFireAreNotSent) {
  make("gated");
  nn::set_gate_ratio(*weights_, 0.9);
  for (const size_t channel : {3u, 5u}) weights_->values("conv2.gate.bias")[channel] = -1e6f;
  const Update update = run(AdpOptions{});
  ASSERT_NE(update.mask, nullptr);
  const auto& layout = weights_->layout();
  const ParameterInfo& filters = *layout.find("conv2.weight");
  const auto row = static_cast<size_t>(filters.size / filters.shape[0]);
  const auto delta = update.payloads[0].values->values(filters);
  for (size_t channel = 0; channel < static_cast<size_t>(filters.shape[0]); ++channel) {
    const bool silent = channel == 3 || channel == 5;
    const auto mine = delta.subspan(channel * row, row);
    const bool moved = std::ranges::any_of(mine, [](float value) { return value != 0; });
    if (silent) {
      EXPECT_FALSE(moved) << channel;
      for (size_t i = 0; i < row; ++i) {
        const size_t index = static_cast<size_t>(filters.offset) + channel * row + i;
        ASSERT_EQ(update.mask->mask.keeps(index), moved) << channel;
      }
    }
  }
  const ParameterInfo& gate = *layout.find("conv2.gate.weight");
  const auto width = static_cast<size_t>(gate.size / gate.shape[0]);
  for (const float value : update.payloads[0].values->values(gate).subspan(3 * width, width))
    EXPECT_EQ(value, 0);
}

// What is left out is zero, so the update is the one that would have been sent whole.
TEST_F(AdpClientTest, SparseUpdatesLoseNothing) {
  for (const char* base : {"fedavg", "fedprox", "fednova"}) {
    make("gated");
    nn::set_gate_ratio(*weights_, 0.3);
    AdpOptions options;
    options.base = base;
    const Update sparse = run(options);
    options.sparse_updates = false;
    const Update dense = run(options);
    EXPECT_EQ(dense.mask, nullptr);
    const auto all = dense.payloads[0].values->values();
    ASSERT_TRUE(std::ranges::equal(sparse.payloads[0].values->values(), all)) << base;
    for (size_t i = 0; i < all.size(); ++i) {
      if (sparse.mask != nullptr && !sparse.mask->mask.keeps(i)) {
        ASSERT_EQ(all[i], 0) << base;
      }
    }
  }
}

TEST_F(AdpClientTest, MagnitudeZeroesSmallConvolutionWeightsAfterEveryEpoch) {
  make("none");
  AdpOptions options;
  options.mode = "magnitude";
  options.threshold = 0.03;
  const Update update = run(options);
  ParameterSet after = *weights_;
  add_scaled(after.values(), 1, update.payloads[0].values->values());
  const auto small = after.values("conv2.weight");
  size_t zeros = 0;
  for (const float value : small) {
    EXPECT_TRUE(std::abs(value) > 0.0299f || std::abs(value) < 1e-6f) << value;
    zeros += std::abs(value) < 1e-6f;
  }
  EXPECT_GT(zeros, small.size() / 4);
  // Layers that are no convolutions are left alone.
  EXPECT_TRUE(std::ranges::any_of(after.values("fc1.weight"), [](float value) {
    return value != 0 && std::abs(value) < 0.02f;
  }));
  EXPECT_EQ(update.payloads[0].name, kDelta);
}

// By hand: two epochs at falling learning rates, the weights cut after each.
TEST_F(AdpClientTest, MagnitudeEpochsAreThoseOfATrainingByHand) {
  make("none");
  SalientTrainer salient(*trainer_, {.threshold = 0.02, .epoch_lr_decay = 0.5});
  salient.load(*weights_);
  const train::FitResult result = salient.fit(*data_.train, samples_, task_.train, {}, Key(5));
  EXPECT_EQ(result.samples, 120u);
  ParameterSet found;
  salient.store(found);

  trainer_->load(*weights_);
  train::OptimizerState state;
  train::FitHooks hooks;
  hooks.optimizer = &state;
  train::StepOptions options = task_.train;
  options.epochs = 1;
  ParameterSet expected;
  for (uint64_t epoch = 0; epoch < 2; ++epoch) {
    trainer_->fit(*data_.train, samples_, options, hooks, Key(5).child(epoch));
    options.lr *= 0.5;
    trainer_->store(expected);
    for (const char* name : {"conv1.weight", "conv2.weight"}) {
      for (float& value : expected.values(name)) value = std::abs(value) <= 0.02f ? 0 : value;
    }
    trainer_->load(expected);
  }
  EXPECT_TRUE(std::ranges::equal(found.values(), expected.values()));
}

TEST(Adp, TheRatioFallsFromOne) {
  AdpOptions options;
  options.ratio = 0.5;
  options.ratio_rounds = 4;
  const Adp adp(options);
  EXPECT_EQ(adp.ratio_at(1), 1);
  EXPECT_EQ(adp.ratio_at(2), 0.875);
  EXPECT_EQ(adp.ratio_at(5), 0.5);
  EXPECT_EQ(adp.ratio_at(50), 0.5);
  options.ratio_start = 10;
  const Adp later(options);
  EXPECT_EQ(later.ratio_at(10), 1);
  EXPECT_EQ(later.ratio_at(11), 1);
  EXPECT_EQ(later.ratio_at(12), 0.875);
  EXPECT_EQ(later.ratio_at(15), 0.5);
  options.ratio_rounds = 0;
  const Adp at_once(options);
  EXPECT_EQ(at_once.ratio_at(10), 1);
  EXPECT_EQ(at_once.ratio_at(11), 0.5);
}

TEST(Adp, OptionsThatDoNothingAreRefused) {
  const auto with = [](auto change) {
    AdpOptions options;
    change(options);
    return options;
  };
  using O = AdpOptions;
  EXPECT_THROW(Adp(with([](O& o) { o.threshold = 0.1; })), Error);
  EXPECT_THROW(Adp(with([](O& o) { o.epoch_lr_decay = 0.9; })), Error);
  EXPECT_THROW(Adp(with([](O& o) { o.mode = "magnitude", o.ratio = 0.5; })), Error);
  EXPECT_THROW(Adp(with([](O& o) { o.mu = 0.5; })), Error);
  EXPECT_NO_THROW(Adp(with([](O& o) { o.mu = 0.5, o.base = "fedprox"; })));
}

// SCAFFOLD divides by steps times one learning rate.
TEST(Adp, ScaffoldNeedsEpochsOfOneLearningRate) {
  const auto start = [](double decay, int64_t epochs) {
    AdpOptions options;
    options.mode = "magnitude";
    options.base = "scaffold";
    options.epoch_lr_decay = decay;
    ServerSetup setup{std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"w", {2}}})};
    setup.train.epochs = epochs;
    Adp(options).start(setup);
  };
  EXPECT_THROW(start(0.99, 2), Error);
  EXPECT_NO_THROW(start(0.99, 1));
  EXPECT_NO_THROW(start(1, 2));
}

// What a task asks for comes from a peer.
TEST(AdpClient, OptionsOfATaskAreChecked) {
  const auto create = [](const char* options) {
    const Json table = Json::parse(options);
    return client::find_algorithm(client_algorithms(), "adp").create({&table, "task.options"}, {});
  };
  EXPECT_NO_THROW(create(R"({"base":"fedprox","mu":0.5,"threshold":0.01})"));
  EXPECT_THROW(create(R"({"base":5})"), Error);
  EXPECT_THROW(create(R"({"base":true})"), Error);
  EXPECT_THROW(create(R"({"base":"adp"})"), Error);  // a tower of itself
  EXPECT_THROW(create(R"({"base":"nobody"})"), Error);
  EXPECT_THROW(create(R"({"mu":0.5})"), Error);  // fedavg has none
  EXPECT_THROW(create(R"({"mode":"loud"})"), Error);
}

}  // namespace
}  // namespace espalier::strategy

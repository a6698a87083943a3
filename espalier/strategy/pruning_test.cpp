#include "espalier/strategy/pruning.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/strategy/exploration_client.h"
#include "espalier/strategy/pruning_client.h"
#include "espalier/strategy/test_client.h"
#include "espalier/strategy/toy_trainer.h"

namespace espalier::strategy {
namespace {

// Two clients with one sample each, learning rate ½, w0 = 0. One epoch moves a client to x/2, so
// D = mean of (x/2)²: (1 + 4)/2 = 2.5 and (0 + 1)/2 = 0.5. Guidance (1, 0), T_p = ½: the second
// weight goes. Then v = −0.1·mean Δ with Δ = (x − w)/2 on the first weight.
TEST(AutoFlip, HandWorkedRounds) {
  AutoFlipOptions options;
  options.sparsity = 0.5;
  options.exploration_epochs = 1;
  options.exploration_holdout = 0;
  ToyFederation federation(std::make_unique<AutoFlip>(options), {{2, 0}, {4, 2}});
  federation.run_round({0, 1});
  const auto& strategy = dynamic_cast<const Pruning&>(federation.strategy());
  ASSERT_NE(strategy.mask(), nullptr);
  EXPECT_TRUE(strategy.mask()->keeps(0));
  EXPECT_FALSE(strategy.mask()->keeps(1));
  // mean Δ = (1 + 2)/2 = 1.5; v = −0.15; w = 0.15.
  EXPECT_FLOAT_EQ(federation.w(0), 0.15f);
  EXPECT_EQ(federation.w(1), 0);
  federation.run_round({0, 1});
  // Δ = ((2 − .15)/2 + (4 − .15)/2)/2 = 1.425; v = 0.9·(−0.15) − 0.1425 = −0.2775.
  EXPECT_NEAR(federation.w(0), 0.4275f, 1e-6);
  EXPECT_EQ(federation.w(1), 0);
}

TEST(AutoFlip, ExplorersStopWhenTheLossNoLongerFalls) {
  AutoFlipOptions options;
  options.exploration_epochs = 50;
  options.exploration_patience = 3;
  options.exploration_holdout = 0;
  ToyFederation federation(std::make_unique<AutoFlip>(options), {{2, 0}, {4, 2}});
  // The toy trainer's loss is always 0: the first epoch is the best, and three more bring nothing.
  federation.run_round({0, 1});
  EXPECT_EQ(federation.strategy().take_report().figures.at("exploration_epochs"), 4);
}

TEST(AutoFlip, StartsFromTheExploredWeightsWhenAsked) {
  AutoFlipOptions options;
  options.sparsity = 0;
  options.exploration_epochs = 1;
  options.exploration_holdout = 0;
  options.init_from_exploration = true;
  ToyFederation federation(std::make_unique<AutoFlip>(options), {{2, 0}, {4, 2}});
  const RoundInfo info{1, 10, Key(1).child(1), federation.train(), false, TaskKind::kExplore};
  federation.strategy().capabilities().preparation->begin_round(info, federation.global());
  federation.run_exchange(info, {0, 1});
  EXPECT_FLOAT_EQ(federation.w(0), 1.5f);
  EXPECT_FLOAT_EQ(federation.w(1), 0.5f);
}

TEST(Pruning, MagnitudeInOneShotAtItsRound) {
  PruningOptions options;
  options.sparsity = 0.5;
  options.start_round = 3;
  ToyFederation federation(std::make_unique<Pruning>(options), {{2, -8}, {4, -8}});
  federation.run_round({0, 1});
  federation.run_round({0, 1});
  EXPECT_NE(federation.w(0), 0);
  EXPECT_NE(federation.w(1), 0);
  federation.run_round({0, 1});
  EXPECT_EQ(federation.w(0), 0);
  EXPECT_NE(federation.w(1), 0);
}

TEST(Pruning, EquallyScoredWeightsAreNotAllPruned) {
  AutoFlipOptions options;
  options.exploration_epochs = 1;
  options.exploration_holdout = 0;
  // Already where everybody wants to be: nothing moves.
  ToyFederation federation(std::make_unique<AutoFlip>(options), {{0, 0}, {0, 0}});
  EXPECT_THROW(federation.run_round({0, 1}), Error);
}

TEST(Pruning, OptionsThatDoNothingAreRefused) {
  const auto with = [](auto change) {
    PruningOptions options;
    change(options);
    return options;
  };
  using O = PruningOptions;
  EXPECT_THROW(Pruning(with([](O& o) { o.criterion = "magnitud"; })), Error);
  EXPECT_THROW(Pruning(with([](O& o) { o.refresh_rounds = 2; })), Error);
  EXPECT_THROW(Pruning(with([](O& o) { o.start_round = 5, o.end_round = 4; })), Error);
  EXPECT_THROW(Pruning(with([](O& o) { o.criterion = "deviation", o.end_round = 4; })), Error);
  EXPECT_THROW(Pruning(with([](O& o) { o.criterion = "random-step", o.by_unit = true; })), Error);
  EXPECT_THROW(Pruning(with([](O& o) { o.criterion = "random-step", o.start_round = 2; })), Error);
  EXPECT_THROW(Pruning(with([](O& o) { o.exploration_epochs = 3; })), Error);
  EXPECT_THROW(Pruning(with([](O& o) { o.seconds_per_mac = 1; })), Error);
  EXPECT_NO_THROW(Pruning(with([](O& o) { o.end_round = 4, o.refresh_rounds = 2; })));
  // Beyond the last round.
  PruningOptions late;
  late.start_round = 11;
  EXPECT_THROW(ToyFederation(std::make_unique<Pruning>(late), {{2, 0}}).run_round({0}), Error);
}

class PrunedClient : public ClientTest {
 protected:
  void SetUp() override {
    ClientTest::SetUp();
    draw_data({12}, 120);
    model_.name = "mlp";
    model_.hidden = {16};
    make_trainer();
  }
};

// Neither momentum nor Adam's moments bring a pruned weight back, and none of them is touched.
TEST_F(PrunedClient, MaskSurvivesEveryOptimizer) {
  prune::Evidence evidence;
  evidence.weights = weights_.get();
  const prune::Mask mask = prune::choose_mask(prune::find_criterion("magnitude").score(evidence),
                                              {0.6, false, false, 0});
  mask.apply(weights_->values());
  Pruning strategy{PruningOptions{}};
  struct Case {
    const char* optimizer;
    double momentum;
    bool nesterov, amsgrad;
  };
  for (const Case& c : {Case{"sgd", 0, false, false}, Case{"sgd", 0.9, false, false},
                        Case{"sgd", 0.9, true, false}, Case{"adam", 0, false, false},
                        Case{"adam", 0, false, true}, Case{"adamw", 0, false, false}}) {
    Task task;
    task.round = 1;
    task.mask = std::make_shared<TravellingMask>(mask, 1);
    task.train.optimizer = c.optimizer;
    task.train.momentum = c.momentum;
    task.train.nesterov = c.nesterov;
    task.train.amsgrad = c.amsgrad;
    task.train.weight_decay = 0.01;
    task.train.epochs = 2;
    const Update update = run(strategy, task);
    const auto delta = update.payloads[0].values->values();
    size_t moved = 0;
    for (size_t i = 0; i < delta.size(); ++i) {
      if (!mask.keeps(i)) {
        ASSERT_EQ(delta[i], 0) << c.optimizer << " " << i;
      }
      moved += delta[i] != 0;
    }
    EXPECT_GT(moved, mask.kept() / 2) << c.optimizer;
    EXPECT_EQ(update.mask, task.mask);
  }
}

// The explorer's deviations are those of a training by hand, epoch by epoch.
TEST_F(PrunedClient, DeviationsAreThoseOfTheExplorersTraining) {
  AutoFlipOptions options;
  options.exploration_epochs = 3;
  options.exploration_holdout = 0;
  AutoFlip strategy{options};
  Task task;
  task.kind = TaskKind::kExplore;
  task.round = 1;
  task.train.optimizer = "adam";
  task.train.lr = 0.01;
  const Update update = run(strategy, task);
  ASSERT_EQ(update.payloads.size(), 1u);
  EXPECT_EQ(update.payloads[0].name, ExplorationClient::kDeviation);
  EXPECT_EQ(update.scalar(ExplorationClient::kEpochs), 3);

  trainer_->load(*weights_);
  train::OptimizerState state;
  train::FitHooks hooks;
  hooks.optimizer = &state;
  for (uint64_t epoch = 0; epoch < 3; ++epoch)
    trainer_->fit(*data_.train, samples_, task.train, hooks, Key(7).child(epoch));
  ParameterSet after;
  trainer_->store(after);
  for (size_t i = 0; i < after.size(); ++i) {
    const float moved = after.values()[i] - weights_->values()[i];
    ASSERT_EQ(update.payloads[0].values->values()[i], moved * moved) << i;
  }
}

TEST_F(PrunedClient, RandomStepsZeroTheirShareOfEveryTensor) {
  PruningOptions options;
  options.criterion = "random-step";
  options.sparsity = 0.45;
  Pruning strategy{options};
  Task task;
  task.round = 1;
  task.train.max_steps = 1;
  const Update update = run(strategy, task);
  ParameterSet after = *weights_;
  add_scaled(after.values(), 1, update.payloads[0].values->values());
  EXPECT_EQ(update.mask, nullptr);
  for (const ParameterInfo& tensor : after.layout().tensors()) {
    const auto zeros = static_cast<double>(std::ranges::count_if(
        after.values(tensor), [](float value) { return std::abs(value) < 1e-7f; }));
    EXPECT_NEAR(zeros, 0.45 * static_cast<double>(tensor.size), 1.0) << tensor.name;
  }
}

TEST_F(PrunedClient, ImportanceIsTheMeanSquaredGradient) {
  PruningOptions options;
  options.criterion = "prunefl";
  options.exploration_epochs = 1;
  options.exploration_holdout = 0;
  Pruning strategy{options};
  Task task;
  task.kind = TaskKind::kExplore;
  task.round = 1;
  const Update update = run(strategy, task);
  ASSERT_EQ(update.payloads[0].name, PruningClient::kImportance);
  std::vector<double> sums(weights_->size(), 0);
  double steps = 0;
  train::FitHooks hooks;
  hooks.before_step = [&](std::span<const float>, std::span<float> gradients) {
    for (size_t i = 0; i < sums.size(); ++i) {
      sums[i] += static_cast<double>(gradients[i]) * static_cast<double>(gradients[i]);
    }
    ++steps;
  };
  trainer_->load(*weights_);
  trainer_->fit(*data_.train, samples_, task.train, hooks, Key(7).child(0));
  for (size_t i = 0; i < sums.size(); ++i)
    ASSERT_NEAR(update.payloads[0].values->values()[i], sums[i] / steps, 1e-5 * (sums[i] + 1e-6));
}

}  // namespace
}  // namespace espalier::strategy

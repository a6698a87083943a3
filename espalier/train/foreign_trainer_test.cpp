#include "espalier/train/foreign_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "espalier/base/error.h"

namespace espalier::train {
namespace {

using ::testing::HasSubstr;

// Two weights and no engine.
class TwoWeights final : public Trainer {
 public:
  const std::shared_ptr<const ParameterLayout>& layout() const override { return layout_; }
  void initialize(Key, ParameterSet& out) override { out = ParameterSet(layout_); }
  uint64_t macs_per_sample() const override { return 2; }
  void load(const ParameterSet&) override {}
  void store(ParameterSet&) const override {}
  FitResult fit(const data::Dataset&, std::span<const uint32_t>, const StepOptions&,
                const FitHooks&, Key) override {
    return {};
  }
  NormStatistics statistics(const data::Dataset&, std::span<const uint32_t>, size_t) override {
    return {};
  }
  void predict(const data::Dataset&, std::span<const uint32_t>, const data::Augmentation*, Key,
               std::span<float>, std::span<float>) override {}
  EvalSums evaluate(const data::Dataset&, std::span<const uint32_t>) override { return {}; }

 private:
  std::shared_ptr<const ParameterLayout> layout_ = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{.name = "w", .shape = {2}, .role = Role::kWeight}});
};

struct Foreign : ::testing::Test {
  std::unique_ptr<Trainer> make(ForeignProgram program) {
    auto trainer = make_foreign_trainer(std::make_unique<TwoWeights>(), std::move(program));
    ParameterSet start;
    trainer->initialize(Key(1), start);
    start.values()[0] = 1;
    trainer->load(start);
    return trainer;
  }
  std::string failure(Trainer& trainer, const FitHooks& hooks) {
    try {
      trainer.fit(no_data, samples, options, hooks, Key(7));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  data::Dataset no_data;
  std::vector<uint32_t> samples = {0, 1, 2};
  StepOptions options{.lr = 0.5, .epochs = 2};
};

TEST_F(Foreign, TheProgramTrainsWhatWasLoaded) {
  const auto trainer = make({.fit =
                                 [](ForeignTask& task) {
                                   EXPECT_EQ(task.num_samples, 3u);
                                   EXPECT_EQ(task.options.lr, 0.5);
                                   EXPECT_EQ(task.seed, 7u);
                                   EXPECT_FALSE(task.before_step);
                                   task.weights.values()[0] += 2;
                                   return FitResult{.loss = 0.25, .steps = 4};
                                 },
                             .evaluate = nullptr});
  const FitResult result = trainer->fit(no_data, samples, options, {}, Key(7));
  ParameterSet trained;
  trainer->store(trained);
  EXPECT_EQ(trained.values()[0], 3);
  EXPECT_EQ(result.loss, 0.25);
  EXPECT_EQ(result.samples, 6u);  // not told: every sample in every epoch
  EXPECT_EQ(result.steps, 4u);
}

TEST_F(Foreign, StepsThatAreNotToldAreThoseOfTheOptions) {
  const auto trainer = make({.fit = [](ForeignTask&) { return FitResult{}; }, .evaluate = nullptr});
  options.batch_size = 2;
  EXPECT_EQ(trainer->fit(no_data, samples, options, {}, Key(7)).steps, 4u);
  options.drop_last = true;
  EXPECT_EQ(trainer->fit(no_data, samples, options, {}, Key(7)).steps, 2u);
  options.max_steps = 1;
  EXPECT_EQ(trainer->fit(no_data, samples, options, {}, Key(7)).steps, 1u);
}

TEST_F(Foreign, WhatAStrategyAddsToEveryStepMustBeAskedFor) {
  FitHooks hooks;
  hooks.before_step = [](std::span<const float> weights, std::span<float> gradients) {
    gradients[0] += weights[0];
  };
  const auto deaf = make({.fit = [](ForeignTask&) { return FitResult{}; }, .evaluate = nullptr});
  EXPECT_THAT(failure(*deaf, hooks), HasSubstr("before_step"));
  const auto good = make({.fit =
                              [](ForeignTask& task) {
                                std::vector<float> gradients(2);
                                task.before_step(task.weights.values(), gradients);
                                task.weights.values()[0] -= 0.5f * gradients[0];
                                return FitResult{};
                              },
                          .evaluate = nullptr});
  EXPECT_EQ(failure(*good, hooks), "");
  EXPECT_EQ(good->fit(no_data, samples, options, hooks, Key(7)).steps, 1u);
  const auto seldom = make({.fit =
                                [](ForeignTask& task) {
                                  std::vector<float> gradients(2);
                                  task.before_step(task.weights.values(), gradients);
                                  return FitResult{.steps = 3};
                                },
                            .evaluate = nullptr});
  EXPECT_THAT(failure(*seldom, hooks), HasSubstr("3 steps and 1 calls"));
  FitHooks both = hooks;
  both.after_step = [](std::span<float>) {};
  EXPECT_THAT(failure(*good, both), HasSubstr("after_step in every"));
  ParameterSet again(good->layout());
  again.values()[0] = 1;
  good->load(again);
  EXPECT_EQ(failure(*good, hooks), "");
  ParameterSet trained;
  good->store(trained);
  EXPECT_EQ(trained.values()[0], 0.5f);
}

TEST_F(Foreign, RefusesWhatItCannotDo) {
  const auto trainer = make({.fit = [](ForeignTask&) { return FitResult{}; }, .evaluate = nullptr});
  FitHooks hooks;
  hooks.teacher = [](uint32_t) -> const float* { return nullptr; };
  EXPECT_THAT(failure(*trainer, hooks), HasSubstr("cross-entropy"));
  hooks = {};
  OptimizerState state;
  hooks.optimizer = &state;
  EXPECT_THAT(failure(*trainer, hooks), HasSubstr("optimizer"));
  EXPECT_THROW(trainer->statistics(no_data, samples, 1), Error);
  EXPECT_THROW(trainer->predict(no_data, samples, nullptr, Key(1), {}, {}), Error);
  EXPECT_THROW(trainer->evaluate_all(no_data, samples, 10), Error);
  EXPECT_EQ(trainer->evaluate_all(no_data, {}, 10).count, 0u);
}

TEST_F(Foreign, WeightsThatAreNotFiniteAreAFailure) {
  const auto trainer = make({.fit =
                                 [](ForeignTask& task) {
                                   task.weights.values()[1] =
                                       std::numeric_limits<float>::infinity();
                                   return FitResult{};
                                 },
                             .evaluate = nullptr});
  EXPECT_THAT(failure(*trainer, {}), HasSubstr("finite"));
}

TEST_F(Foreign, AnEvaluationIsOfAllSamplesAtOnce) {
  int calls = 0;
  const auto trainer = make({.fit = [](ForeignTask&) { return FitResult{}; },
                             .evaluate =
                                 [&](const ParameterSet& weights) {
                                   ++calls;
                                   return EvalSums{weights.values()[0], 2, 3, {}};
                                 }});
  const EvalSums sums = trainer->evaluate_all(no_data, samples, 1);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(sums.correct, 2u);
  EXPECT_EQ(sums.loss, 1);
  EXPECT_THROW(trainer->evaluate_all(no_data, std::vector<uint32_t>{0}, 1), Error);
}

}  // namespace
}  // namespace espalier::train

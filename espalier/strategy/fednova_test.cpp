#include "espalier/strategy/fednova.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/strategy/fednova_client.h"
#include "espalier/strategy/toy_trainer.h"

namespace espalier::strategy {
namespace {

TEST(FedNova, UnevenStepsByHand) {
  // Client 0: one sample at 4 → one step: Δ = 2, ‖a‖ = 1. Client 1: two equal samples at 8, batches
  // of one → two steps: w = 4, 6: Δ = 6, ‖a‖ = 2. p = ⅓, ⅔. Σ p d = ⅓·2 + ⅔·3 = 8/3; τ_eff = ⅓·1 +
  // ⅔·2 = 5/3; w = 40/9.
  ToyFederation federation(std::make_unique<FedNova>(FedNova::Options{}), {{4, 0}, {8, 0, 8, 0}});
  federation.train().batch_size = 1;
  federation.run_round({0, 1});
  EXPECT_NEAR(federation.w(0), 40.0 / 9, 1e-5);
  EXPECT_NEAR(federation.w(2), (1 + 2 * 2) / 3.0,
              1e-6);  // statistics are a plain mean, not normalized
}

TEST(FedNova, EqualStepsAreFedAvg) {
  ToyFederation nova(std::make_unique<FedNova>(FedNova::Options{}), {{4, 0}, {8, 2}});
  ToyFederation plain(std::make_unique<FedAvg>(FedAvg::Options{}), {{4, 0}, {8, 2}});
  nova.run_round({0, 1});
  plain.run_round({0, 1});
  EXPECT_FLOAT_EQ(nova.w(0), plain.w(0));
  EXPECT_FLOAT_EQ(nova.w(1), plain.w(1));
}

TEST(FedNova, AccumulatedStepsWithMomentum) {
  EXPECT_DOUBLE_EQ(accumulated_steps(5, 0), 5);
  // ρ = ½, τ = 3: a = (1 + ½ + ¼, 1 + ½, 1) sums to 4.25.
  EXPECT_DOUBLE_EQ(accumulated_steps(3, 0.5), 4.25);
}

TEST(FedNova, RefusesOtherOptimizers) {
  ToyFederation federation(std::make_unique<FedNova>(FedNova::Options{}), {{4, 0}});
  federation.train().optimizer = "adam";
  EXPECT_THROW(federation.run_round({0}), Error);
}

}  // namespace
}  // namespace espalier::strategy

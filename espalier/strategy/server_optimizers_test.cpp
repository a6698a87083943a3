#include "espalier/strategy/server_optimizers.h"

#include <gtest/gtest.h>

#include <cmath>

#include "espalier/strategy/toy_trainer.h"

namespace espalier::strategy {
namespace {

TEST(FedAvgM, TwoRoundsByHand) {
  // x = 4, η = ½, β = ½. Round 1: Δ = 2, v = 2, w = 2. Round 2: Δ = (4 − 2)/2 = 1, v = ½·2 + 1 = 2,
  // w = 4.
  FedAvgM::Options options;
  options.server_momentum = 0.5;
  ToyFederation federation(std::make_unique<FedAvgM>(options), {{4, 0}});
  federation.run_round({0}, /*checkpoint=*/true);
  EXPECT_FLOAT_EQ(federation.w(0), 2);
  federation.run_round({0});
  EXPECT_FLOAT_EQ(federation.w(0), 4);
  EXPECT_FLOAT_EQ(federation.w(3), 2);  // counters bypass the optimizer: one step per round
}

TEST(FedAdam, OneRoundByHand) {
  // Δ = (2, 0), β₁ = ½, β₂ = ¾, τ = 1 (v₀ = 1), η = 1: m = 1, v = ¾ + ¼·4 = 1.75, w = 1/(√1.75 +
  // 1).
  FedAdam::Options options;
  options.server_lr = 1;
  options.server_beta1 = 0.5;
  options.server_beta2 = 0.75;
  options.tau = 1;
  ToyFederation federation(std::make_unique<FedAdam>(options), {{4, 0}});
  federation.run_round({0}, /*checkpoint=*/true);
  const float first = 1 / (std::sqrt(1.75f) + 1);
  EXPECT_FLOAT_EQ(federation.w(0), first);
  EXPECT_FLOAT_EQ(federation.w(1), 0);
  // Round 2: Δ = (4 − w)/2; m = ½ + ½Δ; v = ¾·1.75 + ¼Δ².
  const float change = (4 - first) / 2;
  const float m = 0.5f + 0.5f * change, v = 0.75f * 1.75f + 0.25f * change * change;
  federation.run_round({0});
  EXPECT_NEAR(federation.w(0), first + m / (std::sqrt(v) + 1), 1e-6);
}

TEST(FedYogi, OneRoundByHand) {
  // As above, but v = v₀ − ¼·Δ²·sign(v₀ − Δ²) = 1 + ¼·4 = 2 in the first coordinate, and unchanged
  // where Δ = 0 … except that sign(1 − 0)·0 = 0.
  FedYogi::Options options;
  options.server_lr = 1;
  options.server_beta1 = 0.5;
  options.server_beta2 = 0.75;
  options.tau = 1;
  ToyFederation federation(std::make_unique<FedYogi>(options), {{4, 1}});
  federation.run_round({0});
  EXPECT_FLOAT_EQ(federation.w(0), 1 / (std::sqrt(2.0f) + 1));
  // Second coordinate: Δ = ½, Δ² = ¼ < 1: v = 1 − ¼·¼ = 15/16, m = ¼.
  EXPECT_FLOAT_EQ(federation.w(1), 0.25f / (std::sqrt(15.0f / 16) + 1));
}

}  // namespace
}  // namespace espalier::strategy

#include "espalier/strategy/fedprox.h"

#include <gtest/gtest.h>

#include "espalier/strategy/toy_trainer.h"

namespace espalier::strategy {
namespace {

TEST(FedProx, TheProximalTermPullsBack) {
  // One client at x = 4, w₀ = 0, η = ½, μ = 1, two steps:
  // step 1: g = −4 + μ·0 = −4 → w = 2; step 2: g = (2 − 4) + 1·(2 − 0) = 0 → w stays 2. FedAvg
  // would reach 3.
  FedProx::Options options;
  options.mu = 1;
  ToyFederation federation(std::make_unique<FedProx>(options), {{4, 8}});
  federation.train().epochs = 2;
  federation.run_round({0});
  EXPECT_FLOAT_EQ(federation.w(0), 2);
  EXPECT_FLOAT_EQ(federation.w(1), 4);
}

TEST(FedProx, MuZeroIsFedAvg) {
  FedProx::Options options;
  options.mu = 0;
  ToyFederation prox(std::make_unique<FedProx>(options), {{4, 8}, {1, 1}});
  ToyFederation plain(std::make_unique<FedAvg>(FedAvg::Options{}), {{4, 8}, {1, 1}});
  for (auto* federation : {&prox, &plain}) {
    federation->train().epochs = 3;
    federation->run_round({0, 1});
  }
  EXPECT_EQ(prox.w(0), plain.w(0));
  EXPECT_EQ(prox.w(1), plain.w(1));
}

}  // namespace
}  // namespace espalier::strategy

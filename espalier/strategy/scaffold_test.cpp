#include "espalier/strategy/scaffold.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/strategy/toy_trainer.h"

namespace espalier::strategy {
namespace {

TEST(Scaffold, TwoRoundsByHand) {
  // Two clients at 2 and 6, η = ½, one step, both selected, uniform weights, first coordinate:
  // Round 1 (all variates 0): Δy = 1 and 3; c_k⁺ = −Δy/(1·½) = −2 and −6; w = 2; c = mean Δc = −4.
  // Round 2: gradients at w = 2 are 0 and −4; corrected by c − c_k = −4+2 = −2 and −4+6 = 2 → −2
  // and −2: no drift apart.
  //   Δy = 1 and 1; w = 3. c_k⁺ = c_k − c − Δy/½ = −2+4−2 = 0 and −6+4−2 = −4; Δc = 2 and 2; c =
  //   −2.
  Scaffold::Options options;
  options.weighting = "uniform";
  ToyFederation federation(std::make_unique<Scaffold>(options), {{2, 0}, {6, 0}});
  federation.run_round({0, 1}, /*checkpoint=*/true);
  EXPECT_FLOAT_EQ(federation.w(0), 2);
  EXPECT_FLOAT_EQ(federation.states()[0].sets.at("control").values()[0], -2);
  EXPECT_FLOAT_EQ(federation.states()[1].sets.at("control").values()[0], -6);
  federation.run_round({0, 1});
  EXPECT_FLOAT_EQ(federation.w(0), 3);
  EXPECT_FLOAT_EQ(federation.states()[0].sets.at("control").values()[0], 0);
  EXPECT_FLOAT_EQ(federation.states()[1].sets.at("control").values()[0], -4);
}

TEST(Scaffold, PartialParticipationMovesTheServerVariateByItsShare) {
  // Four clients, one selected: c = ¼·Δc = ¼·(−4). Next round the same client at w = 2: g = −2,
  // corrected by c − c_k = −1 + 4 = 3.
  ToyFederation federation(std::make_unique<Scaffold>(Scaffold::Options{}),
                           {{4, 0}, {0, 0}, {0, 0}, {0, 0}});
  federation.run_round({0});
  EXPECT_FLOAT_EQ(federation.w(0), 2);
  federation.run_round({0});
  EXPECT_FLOAT_EQ(federation.w(0), 2 - 0.5f * (-2 + 3));
}

TEST(Scaffold, RefusesOtherOptimizers) {
  ToyFederation federation(std::make_unique<Scaffold>(Scaffold::Options{}), {{4, 0}});
  federation.train().optimizer = "adam";
  EXPECT_THROW(federation.run_round({0}), Error);
}

}  // namespace
}  // namespace espalier::strategy

#include "espalier/strategy/fedavg.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/strategy/toy_trainer.h"

namespace espalier::strategy {
namespace {

// From w = 0 with η = ½ and one full-batch step a client moves half-way to the mean of its samples.
// Client 0: one sample (2, 4) → Δ = (1, 2). Client 1: three samples with mean (6, −2) → Δ = (3,
// −1).
const std::vector<std::vector<float>> kPoints = {{2, 4}, {5, -3, 6, -2, 7, -1}};

TEST(FedAvg, WeightsBySamples) {
  ToyFederation federation(std::make_unique<FedAvg>(FedAvg::Options{}), kPoints);
  federation.run_round({0, 1});
  EXPECT_FLOAT_EQ(federation.w(0), (1 * 1 + 3 * 3) / 4.0f);   // 2.5
  EXPECT_FLOAT_EQ(federation.w(1), (1 * 2 + 3 * -1) / 4.0f);  // −0.25
}

TEST(FedAvg, WeightsUniformly) {
  FedAvg::Options options;
  options.weighting = "uniform";
  ToyFederation federation(std::make_unique<FedAvg>(options), kPoints);
  federation.run_round({0, 1});
  EXPECT_FLOAT_EQ(federation.w(0), 2);
  EXPECT_FLOAT_EQ(federation.w(1), 0.5);
}

TEST(FedAvg, AveragesStatisticsAndRoundsCounters) {
  ToyFederation federation(std::make_unique<FedAvg>(FedAvg::Options{}), kPoints);
  federation.train().batch_size = 1;  // client 0 takes one step, client 1 three
  federation.run_round({0, 1});
  EXPECT_FLOAT_EQ(federation.w(2), 2.5);
  EXPECT_FLOAT_EQ(federation.w(3), 3);  // 2.5 rounds away from zero
}

TEST(FedAvg, PartialParticipationUsesOnlyWhoAnswered) {
  ToyFederation federation(std::make_unique<FedAvg>(FedAvg::Options{}), kPoints);
  federation.run_round({1});
  EXPECT_FLOAT_EQ(federation.w(0), 3);
}

TEST(RoundSums, AFaultyUpdateChangesNothing) {
  ToyTrainer trainer;
  RoundSums sums(2, 10);
  Update good;
  good.num_samples = 1;
  good.payloads.push_back({"a", std::make_shared<ParameterSet>(trainer.layout()), 1});
  sums.add(0, good);
  auto bad_values = std::make_shared<ParameterSet>(trainer.layout());
  bad_values->values()[1] = std::nanf("");
  Update bad = good;
  bad.payloads.push_back({"b", bad_values, 1});
  EXPECT_THROW(sums.add(1, bad), Error);
  EXPECT_EQ(sums.find("a")->contributions(), 1u);
  EXPECT_EQ(sums.num_updates(), 1u);
  EXPECT_THROW(sums.add(0, good), Error);  // nobody answers twice
  Update infinite = good;
  infinite.scalars["x"] = INFINITY;
  EXPECT_THROW(sums.add(1, infinite), Error);
}

}  // namespace
}  // namespace espalier::strategy

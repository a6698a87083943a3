// Every row of the registry whose clients return a change of the model must pass these. (FedGKT's
// return feature maps; its own test asks the same of it.)
#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/strategy/toy_trainer.h"

namespace espalier::strategy {
namespace {

const std::vector<std::vector<float>> kPoints = {
    {1, 2, 3, 4}, {5, 6}, {-1, 0, 2, 2, 4, 4}, {0.3f, 0.7f}};

class EveryStrategy : public testing::TestWithParam<StrategyRow> {
 protected:
  std::unique_ptr<Strategy> make() const {
    Json table = Json::object();
    // The toy has no gates, and its weights start alike.
    if (GetParam().name == "pruning") table["start_round"] = 2;
    if (GetParam().name == "adp") table["mode"] = "magnitude";
    return GetParam().create({&table, "strategy"}, {});
  }
};

TEST_P(EveryStrategy, OrderOfArrivalDoesNotMatter) {
  ToyFederation one(make(), kPoints), other(make(), kPoints);
  for (int round = 0; round < 3; ++round) {
    one.run_round({0, 1, 2, 3});
    other.run_round({2, 0, 3, 1});
  }
  EXPECT_TRUE(std::ranges::equal(one.global().values(), other.global().values()));
}

TEST_P(EveryStrategy, SavingAndRestoringInTheMiddleChangesNothing) {
  ToyFederation one(make(), kPoints), other(make(), kPoints);
  for (int round = 0; round < 4; ++round) {
    one.run_round({0, 1, 2, 3}, /*checkpoint=*/false);
    other.run_round({0, 1, 2, 3}, /*checkpoint=*/true);
  }
  EXPECT_TRUE(std::ranges::equal(one.global().values(), other.global().values()));
}

// Who says that its sums are plain gets the same from parts of them.
TEST_P(EveryStrategy, SumsMadeInPartsChangeNothing) {
  ToyFederation one(make(), kPoints), other(make(), kPoints);
  other.num_parts = 2;
  for (int round = 0; round < 4; ++round) {
    one.run_round({0, 1, 2, 3});
    other.run_round({0, 1, 2, 3});
  }
  EXPECT_TRUE(std::ranges::equal(one.global().values(), other.global().values()));
}

TEST_P(EveryStrategy, ATruncatedStateIsAnError) {
  ToyFederation federation(make(), kPoints);
  federation.run_round({0, 1});
  Bytes bytes;
  ByteWriter writer(bytes);
  federation.strategy().save(writer);
  for (size_t size = 0; size < bytes.size(); ++size) {
    ByteReader reader(std::span<const uint8_t>(bytes).first(size), "test");
    EXPECT_THROW(federation.strategy().load(reader), Error) << size;
  }
}

TEST_P(EveryStrategy, ApproachesTheCommonOptimumWhenClientsAgree) {
  ToyFederation federation(make(), {{3, -1}, {3, -1}});
  for (int round = 0; round < 200; ++round) federation.run_round({0, 1});
  // FedAdam and FedYogi move by at most about their server learning rate, 0.01, per round.
  const bool adaptive = GetParam().name == "fedadam" || GetParam().name == "fedyogi";
  const auto pruned = [&](size_t i) {
    return federation.strategy().traits().masks && federation.w(i) == 0;
  };
  EXPECT_FALSE(pruned(0) && pruned(1));
  if (!pruned(0)) {
    EXPECT_NEAR(federation.w(0), 3, adaptive ? 1.6 : 1e-3);
    if (!pruned(1)) {
      EXPECT_NEAR(federation.w(1), -1, adaptive ? 0.5 : 1e-3);
    }
  }
}

TEST_P(EveryStrategy, UnknownKeysAreRefused) {
  const Json table = Json::parse(R"({"name": "x", "clients_per_round": 1, "no_such_key": 1})");
  EXPECT_THROW(GetParam().create({&table, "strategy"}, {"name", "clients_per_round"}), Error);
}

std::vector<StrategyRow> rows() {
  std::vector<StrategyRow> chosen;
  for (const StrategyRow& row : strategy_rows()) {
    if (row.create({}, {})->traits().weights_travel) chosen.push_back(row);
  }
  return chosen;
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryStrategy, testing::ValuesIn(rows()),
                         [](const auto& row) { return row.param.name; });

TEST(Registry, UnknownNamesNameTheNearest) {
  try {
    find_strategy("fedagv");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'fedavg'"), std::string::npos);
  }
}

}  // namespace
}  // namespace espalier::strategy

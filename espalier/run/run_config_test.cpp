#include "espalier/run/run_config.h"

#include <gtest/gtest.h>

#include "espalier/base/config.h"
#include "espalier/base/error.h"

namespace espalier::run {
namespace {

std::string error_of(const char* text) {
  try {
    read_run_config(parse_toml(text, "test"));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(RunConfig, ResolvesAndReadsBack) {
  const RunConfig config = read_run_config(parse_toml(R"(
rounds = 3
[data.partition]
name = "dirichlet"
[strategy]
name = "fedprox"
mu = 0.5
[[uplink]]
stage = "identity"
)",
                                                      "test"));
  EXPECT_EQ(config.strategy["mu"], 0.5);
  EXPECT_EQ(config.strategy["clients_per_round"], 10);
  const RunConfig again = read_run_config(parse_toml(to_toml(config.resolved), "resolved"));
  EXPECT_EQ(again.resolved, config.resolved);
  EXPECT_NE(make_strategy(again), nullptr);
}

TEST(RunConfig, MistakesAreNamed) {
  EXPECT_NE(error_of("round = 3").find("did you mean 'rounds'"), std::string::npos);
  EXPECT_NE(error_of("[data]\nname = \"mnits\"").find("did you mean 'mnist'"), std::string::npos);
  EXPECT_NE(
      error_of("[strategy]\nname = \"fedavg\"\nmu = 1").find("unknown key in [strategy] 'mu'"),
      std::string::npos);
  EXPECT_NE(error_of("[strategy]\nname = \"fedagv\"").find("did you mean 'fedavg'"),
            std::string::npos);
  EXPECT_NE(error_of("[train]\nlr = \"fast\"").find("expected a number for train.lr"),
            std::string::npos);
  EXPECT_NE(error_of("[[train]]\nlr = 1").find("expected a table for train"), std::string::npos);
  EXPECT_NE(error_of("uplink = 3").find("expected a list of tables"), std::string::npos);
}

TEST(RunConfig, AnotherStrategyLeavesOutWhatBelongsToTheFiles) {
  const auto file = [] {
    return parse_toml("[strategy]\nname = \"fedprox\"\nmu = 0.5\nclients_per_round = 3\n", "test");
  };
  Json tree = file();
  const auto notes = override_config(tree, std::vector<std::string>{"strategy.name=fedavg"});
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("strategy.mu = 0.5"), std::string::npos) << notes[0];
  EXPECT_EQ(read_run_config(tree).selection.clients_per_round, 3);
  // What is given with the choice is not left out but refused.
  for (const std::vector<std::string>& given :
       {std::vector<std::string>{"strategy.name=fedavg", "strategy.mu=1"},
        std::vector<std::string>{"strategy={name=\"fedavg\", mu=1}"}}) {
    tree = file();
    EXPECT_TRUE(override_config(tree, given).empty());
    EXPECT_THROW(read_run_config(tree), Error);
  }
  tree = file();
  EXPECT_THROW(override_config(tree, std::vector<std::string>{"strategy.name=fedagv"}), Error);
}

TEST(RunConfig, ChecksWhatNeedsNoData) {
  const auto check = [](const char* text) {
    check_run_config(read_run_config(parse_toml(text, "test")));
  };
  check("[[uplink]]\nstage = \"hadamard\"\n");
  EXPECT_THROW(check("[[uplink]]\nstage = \"hadamar\"\n"), Error);
  EXPECT_THROW(check("[model]\nname = \"mlp\"\nlstm_units = 7\n"), Error);
  EXPECT_THROW(check("[strategy]\nname = \"pruning\"\nexploration_epochs = 7\n"), Error);
  EXPECT_THROW(check("error_feedback = \"residual\"\n"), Error);
}

}  // namespace
}  // namespace espalier::run

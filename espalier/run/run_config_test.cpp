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

}  // namespace
}  // namespace espalier::run

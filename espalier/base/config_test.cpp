#include "espalier/base/config.h"

#include <gtest/gtest.h>

namespace espalier {
namespace {

TEST(Config, RoundTripsThroughToml) {
  const char* text = R"(
seed = 1
name = "a \"quoted\" é"
lr = 0.05
whole = 2.0
list = [1, 2, 3]
[data]
root = ""
[data.partition]
clients = 100
[[uplink]]
stage = "hadamard"
[[uplink]]
stage = "quantize"
bits = 4
)";
  const Json tree = parse_toml(text, "test");
  EXPECT_EQ(parse_toml(to_toml(tree), "again"), tree);
  EXPECT_EQ(tree["uplink"][1]["bits"], 4);
  EXPECT_TRUE(parse_toml(to_toml(tree), "again")["whole"].is_number_float());
}

TEST(Config, SetCreatesTablesIndexesListsAndGuessesStrings) {
  Json tree = parse_toml("[[uplink]]\nbits = 4\n", "test");
  set_config_value(tree, "uplink.0.bits=2");
  set_config_value(tree, "data.partition.alpha=0.5");
  set_config_value(tree, "strategy.name=fedprox");
  set_config_value(tree, "model.hidden=[64, 32]");
  EXPECT_EQ(tree["uplink"][0]["bits"], 2);
  EXPECT_EQ(tree["data"]["partition"]["alpha"], 0.5);
  EXPECT_EQ(tree["strategy"]["name"], "fedprox");
  EXPECT_EQ(tree["model"]["hidden"], Json::array({64, 32}));
  EXPECT_THROW(set_config_value(tree, "uplink.7.bits=2"), Error);
  EXPECT_THROW(set_config_value(tree, "strategy.name.x=2"), Error);
  EXPECT_THROW(set_config_value(tree, "nothing"), Error);
}

TEST(Config, ParseErrorsSayWhere) {
  try {
    parse_toml("a = 1\nb = = 2\n", "file.toml");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("file.toml, line 2"), std::string::npos)
        << error.what();
  }
}

TEST(Config, ValuesStandInOneLine) {
  const Json value = {
      {"bits", 2.0}, {"for", Json::array({Json{{"name", "a b"}}})}, {"stage", "trellis"}};
  EXPECT_EQ(to_toml_value(value), R"({bits = 2.0, for = [{name = "a b"}], stage = "trellis"})");
  EXPECT_EQ(parse_toml("v = " + to_toml_value(value), "test")["v"], value);
}

TEST(Config, AssignmentsWithValues) {
  Json tree = Json::object();
  set_config_value(tree, Assignment{"a.b", Json({1, 2})});
  EXPECT_EQ(tree["a"]["b"], Json({1, 2}));
  EXPECT_EQ(parse_assignment("x.y=[1, 2]").value, Json({1, 2}));
  EXPECT_EQ(parse_assignment("x.y=plain").key, "x.y");
}

}  // namespace
}  // namespace espalier

#include "espalier/run/class_figures.h"

#include <gtest/gtest.h>

namespace espalier::run {
namespace {

TEST(ClassFigures, KeysAndLimits) {
  Json out = {{"accuracy", 0.97}};
  add_class_figures({}, "", out);
  EXPECT_EQ(out.size(), 1U);
  const std::vector<train::ClassCount> rare = {{0, 97, 97}, {3, 4, 0}};
  add_class_figures(rare, "final_", out);
  EXPECT_EQ(out.dump(), R"({"accuracy":0.97,"final_balanced_accuracy":0.5,"final_never_found":[3],)"
                        R"("final_num_never_found":1,"final_recall":{"0":1.0,"3":0.0}})");
  Json copy = Json::object();
  copy_class_figures(out, "final_", "", copy);
  EXPECT_EQ(copy.dump(), R"({"balanced_accuracy":0.5,"never_found":[3],"num_never_found":1,)"
                         R"("recall":{"0":1.0,"3":0.0}})");

  std::vector<train::ClassCount> many;
  for (int32_t c = 0; c < 5000; ++c) many.push_back({c, 2, c % 2 == 0 ? 1U : 0U});
  Json large = Json::object();
  add_class_figures(many, "", large);
  EXPECT_EQ(large["balanced_accuracy"], 0.25);
  EXPECT_EQ(large["num_never_found"], 2500);
  EXPECT_EQ(large["never_found"].size(), 20U);
  EXPECT_FALSE(large.contains("recall"));
}

}  // namespace
}  // namespace espalier::run

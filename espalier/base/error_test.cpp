#include "espalier/base/error.h"

#include <gtest/gtest.h>

namespace espalier {
namespace {

TEST(Error, NearestName) {
  EXPECT_EQ(nearest_name("fedagv", {"fedavg", "fedprox"}), "fedavg");
  EXPECT_EQ(nearest_name("zzzzzz", {"fedavg", "fedprox"}), "");
  EXPECT_EQ(unknown_name_message("strategy", "fedagv", {"fedavg", "fedprox"}),
            "unknown strategy 'fedagv'; did you mean 'fedavg'? Known: fedavg, fedprox.");
}

}  // namespace
}  // namespace espalier

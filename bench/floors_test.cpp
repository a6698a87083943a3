#include "bench/floors.h"

#include <gtest/gtest.h>

#include <optional>

#include "bench/layer_times.h"
#include "bench/noise_images.h"
#include "espalier/base/error.h"

namespace espalier::bench {
namespace {

Peaks round_numbers() {
  Peaks peaks;
  peaks.fp32_macs_per_second = 100;
  peaks.bf16_macs_per_second = 1000;
  peaks.levels = {{"L1", 10, 50}, {"L2", 100, 20}, {"memory", 0, 4}};
  return peaks;
}

TEST(Floors, TheLargerOfTheTwo) {
  const Peaks peaks = round_numbers();
  const Floor products = floor_of({300, 2000, 10, 10}, peaks);
  EXPECT_DOUBLE_EQ(products.arithmetic_seconds, 3 + 2);
  EXPECT_DOUBLE_EQ(products.memory_seconds, 0.2);
  EXPECT_EQ(products.level, "L1");
  EXPECT_FALSE(products.by_memory());
  EXPECT_DOUBLE_EQ(products.seconds(), 5);
  const Floor bytes = floor_of({300, 0, 160, 11}, peaks);
  EXPECT_EQ(bytes.level, "L2");
  EXPECT_DOUBLE_EQ(bytes.seconds(), 8);
  EXPECT_TRUE(bytes.by_memory());
  EXPECT_EQ(floor_of({0, 0, 160, 101}, peaks).level, "memory");
  EXPECT_DOUBLE_EQ(floor_of({0, 0, 160, 101}, peaks).seconds(), 40);
  EXPECT_DOUBLE_EQ(floor_of({}, peaks).seconds(), 0);
  EXPECT_EQ(to_json(peaks)["levels"][1]["bytes_per_second"], 20);
}

nn::Graph small_graph() {
  nn::GraphBuilder net("small", {1, 4, 4});
  const int a =
      net.conv("a", nn::kGraphInput, {.channels = 2, .kernel = 3, .padding = 1, .relu = true});
  const int b = net.conv("b", a, {.channels = 3, .kernel = 3, .padding = 1, .relu = true});
  net.linear("fc", net.flatten(b), 10, false);
  return std::move(net).finish();
}

struct Expected {
  std::string layer;
  Part part;
  uint64_t macs, bytes, working_set;
};

// Five samples of 1×4×4: a convolution to 2 channels, one to 3, 48 values to 10 classes.
TEST(Floors, ConvolutionsAndLinearLayersByHand) {
  const auto set = noise_images({1, 4, 4}, 20);
  LayerTimes times(small_graph(), nn::Type::kFloat, set, 5);
  times.step();
  times.step();
  const std::vector<Expected> expected = {
      // 5·32 outputs of 9 products. x 320 bytes, y 640, 20 parameters.
      {"a", Part::kForward, 1440, 320 + 80 + 640, 1040},
      {"a", Part::kParameters, 1440, 320 + 640 + 80, 1040},  // nothing before it is trained
      {"a", Part::kUpdate, 0, 3 * 80, 2 * 80},
      // 5·48 outputs of 18 products. x 640 bytes, y 960, 57 parameters.
      {"b", Part::kForward, 4320, 640 + 228 + 960, 1828},
      {"b", Part::kData, 4320, 960 + 228 + 640, 1828},
      {"b", Part::kParameters, 4320, 640 + 960 + 228, 1828},
      {"b", Part::kUpdate, 0, 3 * 228, 2 * 228},
      {"flatten 2", Part::kForward, 0, 2 * 960, 1920},
      {"flatten 2", Part::kBackward, 0, 2 * 960, 1920},
      // 5·10 outputs of 48 products. Its weight, 1920 bytes, is read and written at once.
      {"fc", Part::kForward, 2400, 960 + 1960 + 200, 3120},
      {"fc", Part::kData, 2400, 200 + 1960 + 960, 3120},
      {"fc", Part::kParameters, 2400, 960 + 200 + 40 + 2 * 1920, 960 + 200 + 1960},
      {"fc", Part::kUpdate, 0, 3 * 40, 2 * 40},
  };
  const auto rows = times.rows();
  ASSERT_EQ(rows.size(), expected.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE(concat(expected[i].layer, ", ", part_name(expected[i].part)));
    EXPECT_EQ(rows[i].layer, expected[i].layer);
    EXPECT_EQ(rows[i].part, expected[i].part);
    EXPECT_EQ(rows[i].work.fp32_macs, expected[i].macs);
    EXPECT_EQ(rows[i].work.bf16_macs, 0u);
    EXPECT_EQ(rows[i].work.bytes, expected[i].bytes);
    EXPECT_EQ(rows[i].work.working_set, expected[i].working_set);
    EXPECT_GT(rows[i].seconds, 0);
  }
  const Work step = times.work();
  EXPECT_EQ(step.fp32_macs, 2u * 1440 + 3 * 4320 + 3 * 2400);
  // Input and outputs; parameters, and their gradients but for the weight of fc.
  const uint64_t kept = 320 + 640 + 960 + 960 + 200 + 2 * 80 + 2 * 228 + 1960 + 40;
  EXPECT_EQ(step.working_set, kept);
  EXPECT_EQ(step.bytes, 2 * (kept + 640 + 960 + 960 + 200));  // and the outputs' gradients
  EXPECT_GE(times.step_seconds(), times.gather_seconds());
}

TEST(Floors, Bf16CountsWhereItIsUsed) {
  const auto set = noise_images({1, 4, 4}, 20);
  std::optional<LayerTimes> times;
  try {
    times.emplace(small_graph(), nn::Type::kBf16, set, 5);
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  times->step();
  EXPECT_EQ(times->work().bf16_macs, 2u * 1440 + 3 * 4320);
  EXPECT_EQ(times->work().fp32_macs, 3u * 2400);
  const auto rows = times->rows();
  EXPECT_EQ(rows[3].work.bytes, 320u + 228 + 480);  // values of two bytes, parameters of four
}

// Behind a max-pooling only what it let through is multiplied, and its gradient is all there is.
TEST(Floors, ConvolutionsThatSkip) {
  nn::GraphBuilder net("pooled", {12, 4, 4});
  const int conv = net.conv("a", nn::kGraphInput, {.channels = 2, .kernel = 3, .padding = 1});
  net.linear("fc", net.flatten(net.max_pool(conv, 2)), 10, false);
  const auto set = noise_images({12, 4, 4}, 20);
  LayerTimes times(std::move(net).finish(), nn::Type::kFloat, set, 5);
  times.step();
  const auto rows = times.rows();
  ASSERT_EQ(rows[1].part, Part::kBackward);
  EXPECT_GT(rows[1].work.fp32_macs, 0u);
  EXPECT_LE(rows[1].work.fp32_macs, 5u * 2 * 4 * 108);
  // dy of 2×2×2 values, x, parameters and their gradients.
  EXPECT_EQ(rows[1].work.bytes, 5u * 8 * 4 + 5 * 192 * 4 + 2 * 4 * (2 * 108 + 2));
}

}  // namespace
}  // namespace espalier::bench

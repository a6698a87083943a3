#include "espalier/nn/lanes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "espalier/base/random.h"

namespace espalier::nn {
namespace {

// What one processor runs with 512 bits another runs with 256 or 128: all must be tried here.
template <class T>
class LanesTest : public testing::Test {};
using AllLanes = testing::Types<Lanes128, Lanes256, Lanes512>;
TYPED_TEST_SUITE(LanesTest, AllLanes);

std::vector<float> values(uint64_t seed) {
  std::vector<float> out(kLanes);
  Stream stream(Key(seed), 0);
  for (float& value : out) value = static_cast<float>(stream.normal());
  out[3] = 0;
  out[7] = -0.0f;
  return out;
}

template <class Lanes>
std::vector<float> stored(const Lanes& lanes) {
  std::vector<float> out(kLanes);
  store(lanes, out.data());
  return out;
}

TYPED_TEST(LanesTest, Arithmetic) {
  const std::vector<float> a = values(1), b = values(2);
  TypeParam x, y;
  load(a.data(), x);
  load(b.data(), y);
  TypeParam sum = x, less = x;
  sum += y;
  less -= y;
  const std::vector<float> added = stored<TypeParam>(x + y), product = stored<TypeParam>(x * y),
                           difference = stored<TypeParam>(x - y),
                           scaled = stored<TypeParam>(x * 0.3f), as_added = stored(sum),
                           as_less = stored(less), same = stored(broadcast<TypeParam>(1.5f)),
                           zero = stored(broadcast<TypeParam>(-0.0f));
  for (size_t i = 0; i < kLanes; ++i) {
    EXPECT_EQ(added[i], a[i] + b[i]);
    EXPECT_EQ(as_added[i], a[i] + b[i]);
    EXPECT_EQ(difference[i], a[i] - b[i]);
    EXPECT_EQ(as_less[i], a[i] - b[i]);
    EXPECT_EQ(product[i], a[i] * b[i]);
    EXPECT_EQ(scaled[i], a[i] * 0.3f);
    EXPECT_EQ(same[i], 1.5f);
    EXPECT_TRUE(zero[i] == 0 && std::signbit(zero[i]));
  }
}

TYPED_TEST(LanesTest, Choices) {
  std::vector<float> a = values(1), b = values(2);
  a[5] = b[5] = 1;
  a[9] = std::numeric_limits<float>::quiet_NaN();
  TypeParam x, y;
  load(a.data(), x);
  load(b.data(), y);
  std::vector<uint8_t> places(kLanes), chosen(kLanes);
  for (size_t i = 0; i < kLanes; ++i) places[i] = static_cast<uint8_t>(i % 4);
  Words<TypeParam> place;
  load(places.data(), place);
  const std::vector<float> larger = stored<TypeParam>(select_greater(x, y, x, y)),
                           kept = stored<TypeParam>(keep_greater(x, y, 0.25f)),
                           equal = stored<TypeParam>(keep_equal(x, place, 2));
  store(select_greater(x, y, broadcast<Words<TypeParam>>(200U), place), chosen.data());
  for (size_t i = 0; i < kLanes; ++i) {
    if (i != 9) {
      EXPECT_EQ(larger[i], a[i] > b[i] ? a[i] : b[i]);
    }
    EXPECT_EQ(chosen[i], a[i] > b[i] ? 200 : places[i]);
    if (i != 9) {
      EXPECT_EQ(kept[i], b[i] > 0.25f ? a[i] : 0.0f);
    }
    if (i != 9) {
      EXPECT_EQ(equal[i], places[i] == 2 ? a[i] : 0.0f);
    }
  }
  EXPECT_EQ(larger[9], b[9]);  // not greater
}

TYPED_TEST(LanesTest, Bf16) {
  std::vector<float> a = values(3);
  a[0] = std::numeric_limits<float>::quiet_NaN();
  a[1] = std::numeric_limits<float>::infinity();
  a[2] = 1.00390625f;  // in the middle: to even
  TypeParam x, back;
  load(a.data(), x);
  std::vector<nn::Bf16> halves(kLanes);
  store(x, halves.data());
  load(halves.data(), back);
  const std::vector<float> read = stored(back);
  for (size_t i = 0; i < kLanes; ++i) {
    nn::Bf16 expected;
    put(expected, a[i]);
    EXPECT_EQ(halves[i].bits, expected.bits) << i;
    if (i != 0) {
      EXPECT_EQ(read[i], to_float(expected));
    }
  }
  EXPECT_TRUE(std::isnan(read[0]));
}

}  // namespace
}  // namespace espalier::nn

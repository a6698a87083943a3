#include "espalier/codec/trellis.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/base/test_digest.h"
#include "espalier/codec/entropy_scale.h"
#include "espalier/codec/test_damage.h"
#include "espalier/codec/test_inputs.h"
#include "espalier/codec/test_targets.h"

namespace espalier::codec {
namespace {

std::vector<float> round_trip(const TrellisCode& code, std::span<const float> x, size_t block,
                              size_t* size = nullptr) {
  Bytes bytes;
  code.encode(x, block, bytes);
  EXPECT_LE(bytes.size(), TrellisCode::max_encoded_bytes(x.size(), block));
  if (size != nullptr) *size = bytes.size();
  std::vector<float> out(x.size(), NAN);
  code.decode(bytes, block, out);
  return out;
}

// The least cost of one lane by plain dynamic programming over (state, candidate), and the cost of
// a given path.
int64_t least_cost(const detail::TrellisTable& table, std::span<const int32_t> y, size_t lane) {
  std::array<int64_t, 4> best = {0, INT32_MAX, INT32_MAX, INT32_MAX};
  for (size_t i = lane; i < y.size(); i += 32) {
    std::array<int64_t, 4> next = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
    for (size_t state = 0; state < 4; ++state) {
      for (size_t parity = 0; parity < 2; ++parity) {
        const auto cell = static_cast<size_t>((y[i] + table.limit) >> detail::kTrellisCellShift);
        const uint32_t entry = table.candidates[4 * cell + state / 2 * 2 + parity];
        const int64_t e = y[i] - 64 * (static_cast<int32_t>(entry) >> 16);
        int64_t& slot = next[detail::kTrellisTransition[2 * state + parity]];
        slot = std::min(slot, best[state] + e * e + (entry & 0xFFFF));
      }
    }
    best = next;
  }
  return *std::min_element(best.begin(), best.end());
}

TEST(Trellis, SearchFindsTheLeastCostPath) {
  const detail::TrellisDesign design = detail::design_trellis(2, 0.6);
  const auto x = gaussian(32 * 200, 3);
  for_every_target([&] {
    std::vector<int32_t> y(x.size() + 16), turns(x.size() + 16);
    detail::trellis_prepare(x.data(), 64 / design.step, design.limit, x.size(), y.data(),
                            turns.data());
    y.resize(x.size());
    const auto scratch = std::make_unique<detail::TrellisScratch>();
    std::vector<int16_t> levels(x.size());
    std::vector<uint8_t> states(x.size());
    detail::trellis_search(design.table(), y.data(), 200, *scratch, levels.data(), states.data());
    for (size_t lane = 0; lane < 32; ++lane) {
      int64_t cost = 0;
      size_t state = 0;
      for (size_t i = lane; i < y.size(); i += 32) {
        ASSERT_EQ(states[i], state);
        const int level = levels[i];
        const int k = level >= 0 ? (level + 1) / 2 : (level - 1) / 2;
        ASSERT_EQ(level, state < 2 ? 2 * k : 2 * k - (k > 0) + (k < 0));
        const auto parity = static_cast<size_t>(k & 1);
        const auto cell = static_cast<size_t>((y[i] + design.limit) >> detail::kTrellisCellShift);
        const uint32_t entry = design.candidates[4 * cell + state / 2 * 2 + parity];
        ASSERT_EQ(static_cast<int32_t>(entry) >> 16, level);
        cost += int64_t{y[i] - 64 * level} * (y[i] - 64 * level) + (entry & 0xFFFF);
        state = detail::kTrellisTransition[2 * state + parity];
      }
      EXPECT_EQ(cost, least_cost(design.table(), y, lane)) << lane;
    }
  });
}

TEST(Trellis, ErrorsOfTheSpecification) {
  const auto x = gaussian(1 << 19, 11);
  const double norm = sum_of_squares(x);
  struct Row {
    double bits, error;
  };
  for (const Row row : {Row{1.018, .295}, {2.109, .0618}, {3.227, .0130}, {3.963, .00468}}) {
    const TrellisCode code(row.bits);
    size_t size = 0;
    const double e = squared_error(x, round_trip(code, x, 4096, &size)) / norm;
    const double bits =
        (8.0 * static_cast<double>(size) - 16.0 * 128) / static_cast<double>(x.size());
    // At equal rate: 6.02 dB per bit.
    EXPECT_LT(e * std::exp2(2 * (bits - row.bits)) / row.error, 1.03)
        << bits << " bits, error " << e;
    EXPECT_NEAR(bits, row.bits, 0.02);
    EXPECT_NEAR(e / code.expected_error(), 1, 0.02);
    RecordProperty("bits_" + std::to_string(row.bits),
                   std::to_string(bits) + " " + std::to_string(e));
  }
}

TEST(Trellis, WithinOneDecibelOfTheLimitAtEveryRate) {
  const auto x = gaussian(1 << 17, 12);
  const double norm = sum_of_squares(x);
  for (const double bits : {0.25, 0.5, 0.75, 1.5, 2.5, 5.0, 6.0, 7.0}) {
    const TrellisCode code(bits);
    size_t size = 0;
    const double e = squared_error(x, round_trip(code, x, 4096, &size)) / norm;
    const double rate = 8.0 * static_cast<double>(size) / static_cast<double>(x.size());
    EXPECT_NEAR(rate, bits, 0.025) << bits;
    EXPECT_LT(10 * std::log10(e * std::exp2(2 * rate)), 1.0) << bits;
    EXPECT_GT(e, std::exp2(-2 * rate)) << bits;
  }
}

TEST(Trellis, SameBytesOnEveryTarget) {
  const auto x = gaussian(150007, 5);
  expect_same_on_every_target(x.size(), [&](Bytes& bytes, std::span<float> out) {
    const TrellisCode code(1.7);
    code.encode(x, 4096, bytes);
    code.decode(bytes, 4096, out);
  });
}

TEST(Trellis, PeakyInputsEscapeAndStayAccurate) {
  std::vector<float> x(8192);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::pow(0.99f, static_cast<float>(i % 4096));
  x[100] = -30;
  for (const double bits : {1.0, 4.0, 7.0}) {
    const TrellisCode code(bits);
    const auto y = round_trip(code, x, 4096);
    EXPECT_LT(squared_error(x, y) / sum_of_squares(x), std::exp2(-2 * bits) * 1.8) << bits;
    EXPECT_NEAR(y[100], -30, 2 * std::exp2(-bits) + 0x1p-9 * 30);  // and the scale
  }
}

TEST(Trellis, SizesAndSpecialInputs) {
  const TrellisCode code(2);
  for (const size_t n : std::vector<size_t>{0, 1, 7, 1023, 1024, 4096, 100003}) {
    for (const size_t block : std::vector<size_t>{64, 1024, 1344, 4096}) {
      const auto x = gaussian(n, n + 1);
      EXPECT_LE(squared_error(x, round_trip(code, x, block)), 0.2 * sum_of_squares(x) + 1e-9) << n;
    }
  }
  size_t size = 0;
  EXPECT_EQ(round_trip(code, std::vector<float>(5000), 1024, &size), std::vector<float>(5000));
  EXPECT_EQ(size, 10u);
  for (const float value : {1e-45f, 1e-30f, 1e30f}) {
    for (const float v : round_trip(code, std::vector<float>(200, value), 128)) {
      ASSERT_NEAR(v / value, value < 1e-36f ? 0 : 1, 0.9) << value;
    }
  }
  Bytes bytes;
  EXPECT_THROW(code.encode(std::vector<float>(50, NAN), 64, bytes), Error);
  EXPECT_THROW(code.encode(std::vector<float>(50, INFINITY), 64, bytes), Error);
}

TEST(Trellis, DamageIsAnErrorOrFiniteValues) {
  const TrellisCode code(1);
  auto x = gaussian(3000, 3);
  x[17] = 50;
  x[18] = -60;
  Bytes bytes;
  code.encode(x, 1024, bytes);
  expect_errors_or_finite_values(bytes, x.size(),
                                 [&](auto in, auto out) { code.decode(in, 1024, out); });
}

// Tables are computed at start-up: every compiler and machine must come to the same ones.
TEST(Trellis, BytesAreTheRecordedOnes) {
  const auto x = portable_input(20000);
  const std::vector<std::pair<double, uint64_t>> recorded = {
      {0.5, 13170847334138688438u}, {2.0, 11086191453433545205u}, {6.0, 8906642596314731094u}};
  for (const auto& [bits, hash] : recorded) {
    Bytes bytes;
    TrellisCode(bits).encode(x, 4096, bytes);
    EXPECT_EQ(fnv1a(bytes), hash) << bits;
  }
}

}  // namespace
}  // namespace espalier::codec

#include "espalier/report/human.h"

#include <gtest/gtest.h>

#include <limits>

namespace espalier::report {
namespace {

TEST(Human, BytesHaveThreeSignificantDigitsInDecimalUnits) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1000), "1.00 KB");
  EXPECT_EQ(human_bytes(1234), "1.23 KB");
  EXPECT_EQ(human_bytes(45'650'000), "45.6 MB");
  EXPECT_EQ(human_bytes(789e9), "789 GB");
  EXPECT_EQ(human_bytes(1.5e12), "1.50 TB");
}

TEST(Human, RoundingNeverShowsFourDigits) {
  EXPECT_EQ(human_bytes(999'499), "999 KB");
  EXPECT_EQ(human_bytes(999'500), "1.00 MB");
  EXPECT_EQ(human_bytes(9'996), "10.0 KB");
  EXPECT_EQ(human_bytes(99'960), "100 KB");
}

TEST(Human, Counts) {
  EXPECT_EQ(human_count(42), "42");
  EXPECT_EQ(human_count(2.5), "2.50");
  EXPECT_EQ(human_count(1'663'370), "1.66 M");
  EXPECT_EQ(human_count(-1500), "-1.50 K");
  EXPECT_EQ(human_count(std::numeric_limits<double>::quiet_NaN()), "n/a");
}

TEST(Human, Seconds) {
  EXPECT_EQ(human_seconds(0), "0 s");
  EXPECT_EQ(human_seconds(0.00085), "850 us");
  EXPECT_EQ(human_seconds(0.0123), "12.3 ms");
  EXPECT_EQ(human_seconds(0.9999), "1.00 s");
  EXPECT_EQ(human_seconds(4.561), "4.56 s");
  EXPECT_EQ(human_seconds(59.99), "1 min 00 s");
  EXPECT_EQ(human_seconds(65), "1 min 05 s");
  EXPECT_EQ(human_seconds(3599.7), "1 h 00 min");
  EXPECT_EQ(human_seconds(7380), "2 h 03 min");
  EXPECT_EQ(human_seconds(3 * 86400 + 4 * 3600), "3 d 04 h");
}

TEST(Human, PercentAndWidth) {
  EXPECT_EQ(human_percent(0.81234), "81.23%");
  EXPECT_EQ(human_percent(1), "100.00%");
  EXPECT_EQ(display_width("━━╸ 3"), 5u);
}

}  // namespace
}  // namespace espalier::report

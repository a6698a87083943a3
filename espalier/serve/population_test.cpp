#include "espalier/serve/population.h"

#include <gtest/gtest.h>

namespace espalier::serve {
namespace {

constexpr double kHour = 3600;

TEST(Population, CountsWhoWasHeardOfInTheLastTwoDays) {
  Population population;
  EXPECT_EQ(population.active(0), 0);
  for (const uint64_t client : {5, 900, 5}) population.seen(client, 10);
  population.know(7, 10);
  EXPECT_EQ(population.heard(10), 3U);
  EXPECT_EQ(population.active(10), 3);
  population.seen(900, 30 * kHour);
  EXPECT_EQ(population.heard(47 * kHour), 3U);
  EXPECT_EQ(population.heard(49.5 * kHour), 1U) << "900 alone";
}

TEST(Population, WhoComesOftenIsOneDevice) {
  Population population;
  // Ten devices that ask every 50 s and thousand that come every five hours.
  for (int second = 0; second < 40 * kHour; ++second) {
    for (uint64_t client = 0; client < 10; ++client)
      if (second % 50 == static_cast<int>(client)) population.seen(client, second);
    if (second % 18 == 0) population.seen(100 + static_cast<uint64_t>(second / 18 % 1000), second);
  }
  EXPECT_EQ(population.heard(40 * kHour), 1010U);
  EXPECT_NEAR(population.active(40 * kHour), 1010, 30);
}

TEST(Population, ByDayThoseAreFewThatWereManyByNight) {
  Population population;
  // A thousand come every two hours; after 20 h a hundred of them go on.
  for (int second = 0; second < 30 * kHour; ++second) {
    const auto client = static_cast<uint64_t>(second) * 1000 / 7200 % 1000;
    const bool turn =
        second == 0 || static_cast<uint64_t>(second - 1) * 1000 / 7200 % 1000 != client;
    if (turn && (second < 20 * kHour || client % 10 == 0)) population.seen(client, second);
  }
  EXPECT_EQ(population.heard(30 * kHour), 1000U);
  EXPECT_NEAR(population.active(30 * kHour), 100, 10);
}

TEST(Population, AfterARestartEverybodyCountsWhoHasJoined) {
  Population population;
  for (uint64_t client = 0; client < 1000; ++client) population.know(client, 0);
  EXPECT_EQ(population.active(60), 1000);
  // They come once a day: 42 in an hour, of whom nobody knows when they were here.
  for (uint64_t client = 0; client < 42; ++client)
    population.seen(client, static_cast<double>(client) * 86);
  EXPECT_NEAR(population.active(3601), 1000, 30);
}

}  // namespace
}  // namespace espalier::serve

#include "espalier/join/eligibility.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "espalier/base/test_error.h"

namespace espalier::join {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::time_t at_hour(int hour) {
  std::tm local{};
  local.tm_year = 125;
  local.tm_mday = 10;
  local.tm_hour = hour;
  local.tm_isdst = -1;
  return std::mktime(&local);
}

TEST(Eligibility, KeepsToItsHoursPastMidnightToo) {
  Eligibility day({.hours = "9-17"}), night({.hours = "22-6"}), always({});
  for (int hour = 0; hour < 24; ++hour) {
    EXPECT_EQ(day.refusal(0, at_hour(hour)).empty(), hour >= 9 && hour < 17) << hour;
    EXPECT_EQ(night.refusal(0, at_hour(hour)).empty(), hour >= 22 || hour < 6) << hour;
    EXPECT_EQ(always.refusal(0, at_hour(hour)), "");
  }
  for (const char* wrong : {"9", "9-", "x", "25-3", "9-9", "9-17h", "-1-3"})
    EXPECT_THAT(error_of([&] { Eligibility({.hours = wrong}); }), HasSubstr("22-6")) << wrong;
}

TEST(Eligibility, AsksTheCommand) {
  const fs::path flag = fs::temp_directory_path() / ("eligible-" + std::to_string(::getpid()));
  Eligibility device({.command = "test -e " + flag.string()});
  EXPECT_THAT(device.refusal(), HasSubstr("says no"));
  std::ofstream(flag) << "yes";
  EXPECT_EQ(device.refusal(), "");
  fs::remove(flag);
}

TEST(Eligibility, CountsWhatADayCostsOverProcesses) {
  const fs::path folder = fs::temp_directory_path() / ("traffic-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  const EligibilityOptions options{.max_bytes_per_day = 5'000'000, .folder = folder};
  const std::time_t noon = 20'000 * 86'400 + 43'200;
  {
    Eligibility first(options);
    EXPECT_EQ(first.refusal(4'000'000, noon), "");
    first.count(4'000'000, noon);
    EXPECT_THAT(first.refusal(2'000'000, noon), HasSubstr("5 MB are used up"));
  }
  Eligibility again(options);
  EXPECT_EQ(again.refusal(1'000'000, noon + 60), "");
  again.count(1'000'000, noon + 60);
  EXPECT_NE(again.refusal(0, noon + 61), "");
  EXPECT_EQ(again.refusal(4'000'000, noon + 86'400), "") << "tomorrow";
  fs::remove_all(folder);
}

}  // namespace
}  // namespace espalier::join

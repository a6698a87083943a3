#include "espalier/round/devices.h"

#include <gtest/gtest.h>

#include <set>

#include "espalier/base/error.h"

namespace espalier::round {
namespace {

DeviceOptions device(const std::string& name, double share) {
  DeviceOptions options;
  options.name = name;
  options.share = share;
  return options;
}

TEST(Devices, EveryProfileGetsItsShare) {
  const DeviceTable table({device("phone", 5), device("gateway", 3), device("board", 2)}, 101,
                          Key(3));
  std::vector<int> counts(3, 0);
  for (uint64_t client = 0; client < 101; ++client) ++counts[table.index_of(client)];
  EXPECT_NEAR(counts[0], 50.5, 1);
  EXPECT_NEAR(counts[1], 30.3, 1);
  EXPECT_NEAR(counts[2], 20.2, 1);
  // Not the first fifty clients, and others under another key.
  const DeviceTable other({device("phone", 5), device("gateway", 3), device("board", 2)}, 101,
                          Key(4));
  EXPECT_NE(table.clients_of("phone"), other.clients_of("phone"));
  EXPECT_NE(table.clients_of("phone").back(), 49u);
  EXPECT_EQ(table.clients_of("board").size(), static_cast<size_t>(counts[2]));
}

TEST(Devices, WithoutProfilesEverybodyIsAlike) {
  const DeviceTable table({}, 10, Key(1));
  EXPECT_TRUE(table.empty());
  EXPECT_FALSE(table.timed());
  EXPECT_EQ(table.of(9).keep, 0);
  EXPECT_THROW(table.clients_of("phone"), Error);
}

TEST(Devices, ErrorsNameWhatIsWrong) {
  EXPECT_THROW(DeviceTable({device("a", 1), device("a", 1)}, 10, Key(1)), Error);
  EXPECT_THROW(DeviceTable({device("", 1)}, 10, Key(1)), Error);
  const DeviceTable table({device("phone", 1), device("board", 1)}, 10, Key(1));
  try {
    table.clients_of("phon");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("phone"), std::string::npos) << error.what();
  }
}

TEST(Devices, TheClockDividesAmountsByRates) {
  DeviceOptions options = device("phone", 1);
  options.gmacs_per_second = 2;
  options.down_mbit = 8;
  options.up_mbit = 4;
  const DeviceTimes times = device_times(options, 3'000'000, 5e9, 1'000'000);
  EXPECT_DOUBLE_EQ(times.down, 3);
  EXPECT_DOUBLE_EQ(times.compute, 2.5);
  EXPECT_DOUBLE_EQ(times.up, 2);
  EXPECT_DOUBLE_EQ(times.total(), 7.5);
  EXPECT_EQ(device_times(device("untimed", 1), 1000, 1e9, 1000).total(), 0);
}

}  // namespace
}  // namespace espalier::round

#include "espalier/data/shared_data.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "espalier/data/fingerprint.h"
#include "espalier/data/load.h"

namespace espalier::data {
namespace {

DataSource loaded(std::vector<int64_t> shape, SharedData* shared) {
  DataOptions options;
  options.name = "synthetic";
  options.synthetic_train_samples = 3000;
  options.synthetic_test_samples = 70;
  options.synthetic_shape = std::move(shape);
  options.synthetic_clients = options.synthetic_shape.size() == 1 ? 5 : 0;
  options.max_train_samples = 2500;
  return load_dataset(options, Key(7), nullptr, nullptr, [&](Dataset& dataset) {
    if (shared != nullptr) shared->place(dataset);
  });
}

void expect_equal(const Dataset& a, const Dataset& b) {
  EXPECT_EQ(fingerprint(a), fingerprint(b));
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.kind, b.kind);
  EXPECT_EQ(a.sample_shape, b.sample_shape);
  EXPECT_EQ(a.num_classes, b.num_classes);
  EXPECT_EQ(a.labels, b.labels);
  EXPECT_EQ(a.mean, b.mean);
  EXPECT_EQ(a.stddev, b.stddev);
  EXPECT_EQ(a.fill, b.fill);
  EXPECT_EQ(a.client_of_sample, b.client_of_sample);
  EXPECT_EQ(a.client_names, b.client_names);
  EXPECT_EQ(a.pixels, b.pixels);
  EXPECT_EQ(a.floats, b.floats);
}

TEST(SharedData, AnotherProcessSeesTheSameSamples) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{3, 32, 32}, {60}}) {
    const DataSource own = loaded(shape, nullptr);
    SharedData shared;
    const DataSource source = loaded(shape, &shared);
    expect_equal(*source.train, *own.train);
    EXPECT_TRUE(source.train->pixels.borrowed() || source.train->floats.borrowed());
    const std::string described = shared.describe(source).dump();
    const pid_t child = ::fork();
    if (child == 0) {
      const auto found = SharedData::open(Json::parse(described));
      if (!found) ::_exit(1);
      expect_equal(*found->train, *own.train);
      expect_equal(*found->test, *own.test);
      ::_exit(testing::Test::HasFailure() ? 2 : 0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(WEXITSTATUS(status), 0);
  }
}

TEST(SharedData, OutlivesWhoHasPlacedIt) {
  std::optional<DataSource> found;
  const DataSource own = loaded({60}, nullptr);
  {
    SharedData shared;
    const DataSource source = loaded({60}, &shared);
    found = SharedData::open(shared.describe(source));
  }
  ASSERT_TRUE(found);
  expect_equal(*found->train, *own.train);
}

TEST(SharedData, WhatCannotBeReachedIsNothing) {
  SharedData shared;
  const DataSource source = loaded({60}, &shared);
  Json described = shared.describe(source);
  Json other = described;
  other["token"][0] = other["token"][0].get<uint32_t>() ^ 1U;  // another file
  EXPECT_FALSE(SharedData::open(other));
  other = described;
  other["file"] = 0;
  EXPECT_FALSE(SharedData::open(other));
  other["file"] = 99999;
  EXPECT_FALSE(SharedData::open(other));
  EXPECT_FALSE(SharedData::open(Json()));
  // Not placed: not described.
  EXPECT_TRUE(shared.describe(loaded({60}, nullptr)).is_null());
}

}  // namespace
}  // namespace espalier::data

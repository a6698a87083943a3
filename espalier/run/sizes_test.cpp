#include "espalier/run/sizes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "espalier/base/test_error.h"
#include "espalier/models/models.h"

namespace espalier::run {
namespace {

using testing::HasSubstr;

TEST(Sizes, AreTheModelsAndTheDatas) {
  models::ModelOptions options;
  options.name = "resnet20";
  train::DataSpec spec;
  spec.sample_shape = {3, 32, 32};
  spec.num_classes = 10;
  auto train = std::make_shared<data::Dataset>(), test = std::make_shared<data::Dataset>();
  train->pixels.resize(5 * 3072);
  train->labels.resize(5);
  const RunSizes sizes =
      run_sizes(*models::build_graph(options, spec)->layout, {train, test}, 1'000'000'000);
  EXPECT_EQ(sizes.parameters, 272'474U) << "He et al. 2016; the statistics are not trained";
  EXPECT_EQ(sizes.values, 274'063U);
  EXPECT_EQ(sizes.message, 4 * 274'063U);
  EXPECT_EQ(sizes.data, 5 * 3072U + 5 * 4);
  EXPECT_EQ(sizes.total(3), sizes.server + sizes.data + 3 * sizes.client);
  EXPECT_GT(sizes.client, 1'000'000'000U) << "activations count";
}

TEST(Sizes, WhatDoesNotFitIsRefusedWithTheNumbers) {
  RunSizes sizes;
  sizes.parameters = 90'000'000'000;
  sizes.message = 360'000'000'000;
  sizes.server = 1'440'000'000'000;
  sizes.client = 1'440'000'000'000;
  const std::string text = error_of([&] { require_memory("mlp", sizes, 2, 24'000'000'000); });
  for (const char* part : {"90.0 G parameters", "360 GB", "4.32 TB", "24.0 GB", "--threads"})
    EXPECT_THAT(text, HasSubstr(part));
  EXPECT_NO_THROW(require_memory("mlp", sizes, 2, 5'000'000'000'000));
  EXPECT_NO_THROW(require_memory("mlp", sizes, 2, 0)) << "a machine that says nothing";
  EXPECT_GT(machine_memory(), uint64_t{100} << 20);
}

}  // namespace
}  // namespace espalier::run

#include "espalier/train/fixed_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "espalier/base/test_error.h"

namespace espalier::train {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ParameterSet set_of(std::vector<ParameterInfo> tensors, std::vector<float> values) {
  ParameterSet set(std::make_shared<const ParameterLayout>(std::move(tensors)));
  std::ranges::copy(values, set.values().begin());
  return set;
}

ParameterSet trained() { return set_of({{"w", {2}, Role::kWeight}}, {1, 2}); }

FixedTensors fixed() {
  return {set_of({{"frozen", {2}, Role::kWeight}, {"ids", {1}, Role::kCounter}}, {-INFINITY, 3, 7}),
          {{"again.w", "w"}}};
}

SafetensorsFile file_of(const ParameterSet& weights, const FixedTensors& beside) {
  return SafetensorsFile::parse(write_weights(weights, beside, {}), "test");
}

TEST(FixedTensors, AreInTheFileBesideTheWeights) {
  const SafetensorsFile file = file_of(trained(), fixed());
  EXPECT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.find("ids")->dtype, DType::kI64);
  ParameterSet read(trained().shared_layout());
  read_weights(file, fixed(), read);
  EXPECT_THAT(read.values(), ElementsAre(1, 2));
}

TEST(FixedTensors, MayBeMissingFromTheFile) {
  ParameterSet read(trained().shared_layout());
  read_weights(file_of(trained(), {}), fixed(), read);
  EXPECT_THAT(read.values(), ElementsAre(1, 2));
}

TEST(FixedTensors, KeepTheirValues) {
  FixedTensors other = fixed();
  other.values.values()[1] = 4;
  ParameterSet read(trained().shared_layout());
  EXPECT_THAT(error_of([&] { read_weights(file_of(trained(), other), fixed(), read); }),
              HasSubstr("'frozen' has other values than in model.file"));
}

TEST(FixedTensors, AnyNameOfATensorWillDo) {
  const auto two = set_of({{"again.w", {2}, Role::kWeight}}, {5, 6});
  ParameterSet read(trained().shared_layout());
  read_weights(file_of(two, {}), fixed(), read);
  EXPECT_THAT(read.values(), ElementsAre(5, 6));
}

TEST(FixedTensors, NamesOfOneTensorMustAgree) {
  const auto both = [](float last) {
    return set_of({{"again.w", {2}, Role::kWeight}, {"w", {2}, Role::kWeight}}, {5, 6, 5, last});
  };
  ParameterSet read(trained().shared_layout());
  read_weights(file_of(both(6), {}), fixed(), read);
  EXPECT_THAT(error_of([&] { read_weights(file_of(both(7), {}), fixed(), read); }),
              HasSubstr("are one tensor in the module"));
}

TEST(FixedTensors, AnUnknownOrMissingTensorIsAnotherModel) {
  ParameterSet read(trained().shared_layout());
  const auto unknown = set_of({{"w", {2}, Role::kWeight}, {"x", {1}, Role::kWeight}}, {1, 2, 3});
  EXPECT_THAT(error_of([&] { read_weights(file_of(unknown, {}), fixed(), read); }),
              HasSubstr("no tensor 'x'"));
  const auto missing = set_of({{"ids", {1}, Role::kCounter}}, {7});
  EXPECT_THAT(error_of([&] { read_weights(file_of(missing, {}), fixed(), read); }),
              HasSubstr("'w' is missing"));
}

}  // namespace
}  // namespace espalier::train

// A sub-model is the whole model without its dropped units: for every model of the registry, the
// small net gives what the whole one gives when everything outside the sub-model is 0.
#include <gtest/gtest.h>

#include "espalier/models/make_trainer.h"
#include "espalier/params/coordinate_map.h"
#include "espalier/train/trainer.h"

namespace espalier::models {
namespace {

struct ModelCase {
  std::string model;
  std::vector<int64_t> shape;
  size_t groups;
  std::string gates = "none";
};

data::Dataset samples_for(const ModelCase& c) {
  data::Dataset set;
  set.name = "test";
  set.sample_shape = c.shape;
  set.num_classes = 7;
  constexpr size_t kCount = 12;
  Stream stream(Key(5));
  for (size_t i = 0; i < kCount; ++i) set.labels.push_back(static_cast<int32_t>(stream.below(7)));
  if (c.model == "lstm") {
    set.kind = data::Kind::kTokens;
    set.vocabulary = 20;
    for (size_t i = 0; i < kCount * set.sample_size(); ++i)
      set.tokens.push_back(static_cast<int32_t>(stream.below(20)));
  } else {
    set.kind = data::Kind::kFloat;
    for (size_t i = 0; i < kCount * set.sample_size(); ++i)
      set.floats.push_back(static_cast<float>(stream.normal()));
  }
  set.validate();
  return set;
}

class EveryModel : public testing::TestWithParam<ModelCase> {};

TEST_P(EveryModel, DroppedUnitsHaveNoInfluence) {
  const ModelCase& c = GetParam();
  const data::Dataset set = samples_for(c);
  ModelOptions options;
  options.name = c.model;
  options.hidden = {20, 15};
  options.lstm_units = 24;
  options.gates = c.gates;
  // Below 1 the number of survivors depends on that of the channels, dropped ones included.
  if (c.gates != "none") options.gate_ratio = 1;
  // Without normalization a gate that grows with its input squares values layer by layer.
  options.gate_sigmoid = c.gates != "none" && c.model == "all-cnn";
  const DataSpec spec = spec_of(set);
  const auto whole = make_trainer(options, spec, {});
  const ParameterLayout& layout = *whole->layout();
  ASSERT_EQ(layout.groups().size(), c.groups);
  ASSERT_TRUE(*model_layout(options, spec) == layout);

  ParameterSet weights(whole->layout());
  whole->initialize(Key(1), weights);
  Stream stream(Key(2));
  for (const ParameterInfo& tensor : layout.tensors()) {
    if (tensor.role == Role::kWeight || tensor.role == Role::kCounter) continue;
    for (float& value : weights.values(tensor)) value += static_cast<float>(stream.uniform());
  }
  std::vector<std::vector<uint32_t>> kept;
  std::vector<int64_t> units;
  for (const UnitGroup& group : layout.groups()) {
    const auto count = std::max<uint64_t>(1, static_cast<uint64_t>(group.size) * 6 / 10);
    kept.emplace_back();
    for (const uint64_t unit : sample_without_replacement(
             Key(3).child(kept.size()), static_cast<uint64_t>(group.size), count)) {
      kept.back().push_back(static_cast<uint32_t>(unit));
    }
    units.push_back(static_cast<int64_t>(count));
  }
  const auto small = make_trainer(options, spec, {}, units);
  const CoordinateMap map(layout, *small->layout(), kept);
  ParameterSet part(small->layout()), masked(whole->layout());
  map.gather(weights.values(), part.values());
  map.scatter(part.values(), masked.values());

  EXPECT_LT(small->layout()->size(), layout.size() * 7 / 10);
  EXPECT_LT(small->macs_per_sample(), whole->macs_per_sample() * 7 / 10);
  std::vector<uint32_t> all(set.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint32_t>(i);
  whole->load(masked);
  small->load(part);
  const EvalSums expected = whole->evaluate(set, all), found = small->evaluate(set, all);
  EXPECT_NEAR(found.loss, expected.loss, 1e-4 * std::abs(expected.loss));
  EXPECT_EQ(found.correct, expected.correct);
  // And it depends on what is kept.
  whole->load(weights);
  EXPECT_GT(std::abs(whole->evaluate(set, all).loss - expected.loss), 1e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Registry, EveryModel,
    testing::Values(ModelCase{"mlp", {1, 9, 9}, 2}, ModelCase{"cnn", {1, 12, 12}, 3},
                    ModelCase{"cnn-cifar", {3, 12, 12}, 3}, ModelCase{"all-cnn", {3, 16, 16}, 8},
                    ModelCase{"resnet8", {3, 16, 16}, 6}, ModelCase{"resnet20", {3, 16, 16}, 12},
                    ModelCase{"vgg11", {3, 32, 32}, 8}, ModelCase{"lstm", {6}, 3},
                    ModelCase{"cnn", {1, 12, 12}, 3, "gated"},
                    ModelCase{"cnn-cifar", {3, 12, 12}, 3, "fbs"},
                    ModelCase{"all-cnn", {3, 16, 16}, 8, "gated"},
                    ModelCase{"resnet8", {3, 16, 16}, 6, "gated"},
                    ModelCase{"resnet20", {3, 16, 16}, 12, "fbs"},
                    ModelCase{"vgg11", {3, 32, 32}, 8, "gated"}),
    [](const auto& row) {
      std::string name = row.param.model;
      if (row.param.gates != "none") name += "_" + row.param.gates;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace espalier::models

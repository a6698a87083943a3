#include "espalier/infer/gated_runtime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "espalier/base/test_error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/test_problem.h"
#include "espalier/nn/gates.h"
#include "espalier/torch/torch_net.h"
#include "espalier/train/test_data.h"

namespace espalier::infer {

using namespace models;
using torch::make_torch_graph_net;
namespace {

struct Case {
  std::string model, gates;
  std::vector<int64_t> shape;
  double ratio;
  double width = 1.0;
  bool sigmoid = false;
  std::string norm = "batch";
};

std::string case_name(const Case& c) {
  std::string name = c.model + "_" + c.gates + "_" +
                     std::to_string(static_cast<int>(std::lround(100 * c.ratio))) + "_" +
                     std::to_string(c.shape.back()) + (c.sigmoid ? "_sigmoid" : "") +
                     (c.width == 1.0 ? "" : "_narrow") + (c.norm == "group" ? "_group" : "");
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

Graph graph_of(const Case& c) {
  ModelOptions options;
  options.name = c.model;
  options.width = c.width;
  options.norm = c.norm;
  options.gates = c.gates;
  if (c.gates != "none") {
    options.gate_ratio = c.ratio;
    options.gate_sigmoid = c.sigmoid;
  }
  return graph_of(options, c.shape);
}

constexpr Shift kShift{-0.1, 0.4};

class GatedNets : public testing::TestWithParam<Case> {};

TEST_P(GatedNets, SkippingEqualsTheAutogradTwin) {
  const Graph graph = graph_of(GetParam());
  const Problem problem(graph, 7, kShift);
  const auto reference = make_torch_graph_net(graph, "cpu");
  std::vector<float> expected(70), found(70), masked(10);
  reference->predict(problem.batch, problem.weights.values(), {}, expected);
  GatedNet net(graph, problem.weights);
  uint64_t macs = 0, all = 0;
  for (int64_t i = 0; i < 7; ++i) {
    const auto logits = std::span(found).subspan(static_cast<size_t>(i) * 10, 10);
    macs += net.run(problem.sample(graph, i), Arithmetic::kSkipping, logits);
    all += net.run(problem.sample(graph, i), Arithmetic::kMasked, masked);
    EXPECT_TRUE(std::ranges::equal(logits, masked)) << "the same floats, sample " << i;
  }
  EXPECT_LT(distance(found, expected), 1e-5);
  EXPECT_EQ(all, 7 * graph.macs);
  if (GetParam().gates != "none" && GetParam().ratio < 1) {
    EXPECT_LT(macs, all);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, GatedNets,
    testing::Values(
        Case{"cnn", "gated", {1, 28, 28}, 0.5}, Case{"cnn", "fbs", {1, 28, 28}, 0.7},
        Case{"cnn", "gated", {3, 33, 33}, 0.3, 0.4}, Case{"cnn-cifar", "gated", {3, 32, 32}, 0.7},
        Case{"cnn-cifar", "fbs", {3, 32, 32}, 0.5},
        Case{"all-cnn", "gated", {3, 16, 16}, 0.5, 0.5, true},
        Case{"all-cnn", "fbs", {3, 16, 16}, 0.7, 0.5, true},
        Case{"vgg11", "gated", {3, 32, 32}, 0.5, 0.25},
        Case{"vgg11", "gated", {3, 32, 32}, 0.7, 0.25, true},
        Case{"vgg11", "fbs", {3, 32, 32}, 0.5, 0.25}, Case{"vgg11", "gated", {3, 48, 40}, 0.6, 0.1},
        Case{"vgg11", "fbs", {1, 64, 64}, 0.02, 0.1}, Case{"resnet8", "gated", {3, 32, 32}, 0.62},
        Case{"resnet8", "fbs", {3, 32, 32}, 0.3}, Case{"resnet8", "gated", {1, 28, 28}, 0.5, 0.7},
        Case{"resnet8", "gated", {3, 16, 16}, 0.4, 1.5, false, "group"},
        Case{"resnet8", "fbs", {3, 16, 16}, 0.1, 1.0, false, "group"},
        Case{"resnet20", "gated", {3, 32, 32}, 0.62}, Case{"resnet20", "fbs", {3, 16, 16}, 0.7},
        Case{"resnet20", "gated", {3, 16, 16}, 1.0}, Case{"mlp", "none", {1, 28, 28}, 1},
        Case{"cnn", "none", {1, 28, 28}, 1}, Case{"all-cnn", "none", {3, 32, 32}, 1, 0.3},
        Case{"vgg11", "none", {3, 32, 32}, 1, 0.2}, Case{"resnet20", "none", {3, 32, 32}, 1},
        Case{"resnet8", "none", {3, 9, 11}, 1, 1.0, false, "group"},
        Case{"resnet8-client", "none", {3, 12, 12}, 1}, Case{"small-gkt", "none", {1, 28, 28}, 1}),
    [](const auto& test) { return case_name(test.param); });

class GatedRuntimes : public testing::TestWithParam<Case> {};

// Every size of batch, both ways and the automatic choice: the same logits. The weights are those
// of a few training steps, so that gates have learned to differ.
TEST_P(GatedRuntimes, EveryWayGivesTheSameLogits) {
  const Case& c = GetParam();
  const Graph graph = graph_of(c);
  ModelOptions options;
  options.name = c.model;
  options.width = c.width;
  options.gates = c.gates;
  options.gate_ratio = c.ratio;
  const data::Dataset set = block_images(c.shape, 96, 10);
  const auto trainer = make_trainer(options, spec_of(set), {});
  ParameterSet weights(trainer->layout());
  trainer->initialize(Key(1), weights);
  trainer->load(weights);
  StepOptions training;
  training.lr = 0.01;
  training.batch_size = 32;
  training.clip_norm = 1;
  training.epochs = 2;
  trainer->fit(set, first_samples(96), training, {}, Key(2));
  trainer->store(weights);

  GatedRuntime runtime(graph, weights);
  const auto size = static_cast<size_t>(graph.input.size());
  for (const size_t count : {1U, 2U, 7U, 32U}) {
    std::vector<float> samples(count * size), expected(count * 10), logits(count * 10);
    const auto chosen = first_samples(count);
    data::gather(set, chosen, nullptr, Key(0), samples);
    trainer->predict(set, chosen, nullptr, Key(0), {}, expected);
    ASSERT_EQ(runtime.way(static_cast<int64_t>(count)), nullptr);
    for (const auto way : {GatedRuntime::Way::kSkipping, GatedRuntime::Way::kWholeBatch}) {
      std::vector<uint64_t> macs(count);
      runtime.predict_by(way, samples, logits, macs);
      EXPECT_LT(distance(logits, expected), 1e-5) << count;
      for (const uint64_t executed : macs) {
        EXPECT_GT(executed, 0U);
        EXPECT_EQ(executed < graph.macs, way == GatedRuntime::Way::kSkipping);
      }
    }
    for (int i = 0; i < 2; ++i) {  // the choice is made, then used
      std::fill(logits.begin(), logits.end(), 0.0f);
      runtime.predict(samples, logits, {});
      EXPECT_LT(distance(logits, expected), 1e-5) << count;
      ASSERT_NE(runtime.way(static_cast<int64_t>(count)), nullptr);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GatedRuntimes,
                         testing::Values(Case{"cnn", "gated", {1, 28, 28}, 0.5, 0.5},
                                         Case{"cnn-cifar", "fbs", {3, 32, 32}, 0.7, 0.5},
                                         Case{"vgg11", "gated", {3, 32, 32}, 0.5, 0.25},
                                         Case{"vgg11", "fbs", {3, 32, 32}, 0.7, 0.25},
                                         Case{"resnet8", "gated", {3, 32, 32}, 0.62},
                                         Case{"resnet20", "fbs", {3, 32, 32}, 0.3}),
                         [](const auto& test) { return case_name(test.param); });

TEST(GatedRuntime, ExplainsWhatIsWrong) {
  const Graph plain = graph_of({"cnn", "none", {1, 28, 28}, 1});
  const Graph gated = graph_of({"cnn", "gated", {1, 28, 28}, 0.5});
  EXPECT_THAT(error_of([&] { GatedRuntime(plain, ParameterSet(plain.layout)); }),
              testing::HasSubstr("no gates"));
  EXPECT_THAT(error_of([&] { GatedRuntime(gated, ParameterSet(plain.layout)); }),
              testing::HasSubstr("not those of this model"));
}

// Of equal gates the lower channel numbers survive, as the engines have it.
TEST(GatedRuntime, TiesGoToTheLowerChannel) {
  const Graph graph = graph_of({"cnn", "gated", {1, 28, 28}, 0.5, 0.5});
  Problem problem(graph, 3, kShift);
  for (const std::string conv : {"conv1", "conv2"}) {
    for (float& value : problem.weights.values(conv + ".gate.weight")) value = 0;
    for (float& value : problem.weights.values(conv + ".gate.bias")) value = 0.75f;
    problem.weights.values(conv + ".gate.bias")[3] = 0.5f;
    problem.weights.values(conv + ".gate.bias")[6] = 0.875f;
  }
  std::vector<float> expected(30), found(30);
  const auto reference = make_torch_graph_net(graph, "cpu");
  reference->predict(problem.batch, problem.weights.values(), {}, expected);
  GatedRuntime runtime(graph, problem.weights);
  runtime.predict_by(GatedRuntime::Way::kSkipping, problem.values, found, {});
  EXPECT_LT(distance(found, expected), 1e-5);
}

}  // namespace
}  // namespace espalier::infer

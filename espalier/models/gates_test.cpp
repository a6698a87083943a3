#include "espalier/nn/gates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "espalier/base/test_error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/test_problem.h"
#include "espalier/params/hidden_outputs.h"
#include "espalier/train/test_data.h"

namespace espalier::models {
namespace {

using testing::HasSubstr;

ModelOptions gated(const std::string& name, const std::string& mode = "gated") {
  ModelOptions options;
  options.name = name;
  options.gates = mode;
  return options;
}

TEST(Gates, SalientChannelsRoundHalvesUpAndKeepOne) {
  EXPECT_EQ(salient_channels(700000, 64), 45);  // 44.8
  EXPECT_EQ(salient_channels(500000, 5), 3);    // 2.5
  EXPECT_EQ(salient_channels(500000, 1), 1);
  EXPECT_EQ(salient_channels(1, 512), 1);
  EXPECT_EQ(salient_channels(-5, 512), 1);
  EXPECT_EQ(salient_channels(1000000, 7), 7);
  EXPECT_EQ(salient_channels(3e9f, 7), 7);
  EXPECT_EQ(salient_channels(std::nanf(""), 7), 7);
}

TEST(Gates, RatioTravelsWithTheWeights) {
  ModelOptions options = gated("resnet8");
  options.gate_ratio = 0.62;
  const auto graph = build_graph(options, images({3, 16, 16}));
  ParameterSet weights(graph->layout);
  draw_parameters(graph->init, Key(1), weights);
  EXPECT_TRUE(has_gates(*graph->layout));
  EXPECT_DOUBLE_EQ(gate_ratio(weights).value(), 0.62);
  EXPECT_EQ(graph->layout->find(kGateRatio)->role, Role::kCounter);
  set_gate_ratio(weights, 0.5);
  EXPECT_EQ(weights.values(kGateRatio)[0], 500000);
  EXPECT_THAT(error_of([&] { set_gate_ratio(weights, 0); }), HasSubstr("above 0"));
  EXPECT_THAT(error_of([&] { set_gate_ratio(weights, std::nan("")); }), HasSubstr("above 0"));
  const auto dense = build_graph({}, images({1, 28, 28}));
  ParameterSet plain(dense->layout);
  EXPECT_FALSE(gate_ratio(plain).has_value());
  EXPECT_THAT(error_of([&] { set_gate_ratio(plain, 0.5); }), HasSubstr("no gates"));
}

TEST(Gates, StandWhereTheSpecificationPutsThem) {
  struct Row {
    std::string model;
    std::vector<int64_t> shape;
    size_t gates;
  };
  for (const Row& row : {Row{"cnn", {1, 28, 28}, 2}, Row{"cnn-cifar", {3, 32, 32}, 2},
                         Row{"all-cnn", {3, 32, 32}, 8}, Row{"vgg11", {3, 32, 32}, 8},
                         Row{"resnet8", {3, 32, 32}, 6}, Row{"resnet32", {3, 32, 32}, 30}}) {
    ModelOptions plain;
    plain.name = row.model;
    const auto dense = build_graph(plain, images(row.shape));
    for (const std::string mode : {"gated", "fbs"}) {
      const auto graph = build_graph(gated(row.model, mode), images(row.shape));
      const std::vector<GatedConv> found = gated_convs(*graph);
      ASSERT_EQ(found.size(), row.gates) << row.model;
      uint64_t macs = dense->macs;
      for (const GatedConv& g : found) {
        const auto node = [&](int i) { return graph->nodes[static_cast<size_t>(i)]; };
        const auto& tensors = graph->layout->tensors();
        ASSERT_EQ(node(g.conv).op, Op::kConv);
        ASSERT_EQ(node(g.gate).op, Op::kGate);
        EXPECT_EQ(node(g.gate).input, node(g.conv).input);
        const ParameterInfo& conv = tensors[static_cast<size_t>(node(g.conv).weight)];
        const ParameterInfo& gate = tensors[static_cast<size_t>(node(g.gate).weight)];
        const std::string name = conv.name.substr(0, conv.name.size() - 7);
        EXPECT_EQ(gate.name, name + ".gate.weight");
        EXPECT_TRUE(is_gate_tensor(gate.name));
        EXPECT_FALSE(is_gate_tensor(conv.name));
        EXPECT_EQ(gate.shape, (std::vector<int64_t>{conv.shape[0], conv.shape[1]}));
        EXPECT_EQ(node(g.apply).weight == kNone && node(g.apply).bias != kNone, mode == "fbs");
        EXPECT_EQ(name.find("downsample"), std::string::npos);
        macs += static_cast<uint64_t>(conv.shape[0] * conv.shape[1]);
      }
      EXPECT_EQ(graph->macs, macs);
    }
  }
}

TEST(Gates, StartAsTheyShould) {
  const auto graph = build_graph(gated("vgg11", "fbs"), images({3, 32, 32}));
  ParameterSet weights(graph->layout);
  draw_parameters(graph->init, Key(1), weights);
  for (const float b : weights.values("features.4.gate.bias")) EXPECT_EQ(b, 1);
  for (const float b : weights.values("features.5.bias")) EXPECT_EQ(b, 0.1f);
  EXPECT_EQ(graph->layout->find("features.5.weight"), nullptr);
  const auto a = weights.values("features.4.gate.weight");
  ASSERT_EQ(a.size(), 128U * 64U);
  EXPECT_NEAR(squared_norm(a) / static_cast<double>(a.size()), 2.0 / 64, 0.05 * 2.0 / 64);
}

// Open gates are 1 for every sample; at a ratio of 1 the net then says what the same weights say
// without gates, to the rounding of a scale that is folded elsewhere.
TEST(Gates, OpenOnesBeginAsTheNetWithout) {
  const data::Dataset set = block_images({3, 32, 32}, 20, 10);
  for (const std::string name : {"resnet8", "vgg11", "cnn-cifar"}) {
    ModelOptions options = gated(name), plain;
    options.width = plain.width = 0.25;
    options.gate_init = "open";
    options.gate_ratio = 1;
    plain.name = name;
    const auto with = make_trainer(options, spec_of(set), {}),
               without = make_trainer(plain, spec_of(set), {});
    ParameterSet open(with->layout()), same(without->layout());
    with->initialize(Key(1), open);
    for (const ParameterInfo& tensor : without->layout()->tensors())
      std::ranges::copy(open.values(tensor.name), same.values(tensor).begin());
    with->load(open);
    without->load(same);
    const EvalSums a = with->evaluate(set, first_samples(20)),
                   b = without->evaluate(set, first_samples(20));
    EXPECT_NEAR(a.loss, b.loss, 1e-5 * b.loss) << name;
    EXPECT_EQ(a.correct, b.correct) << name;
  }
}

TEST(Gates, ExplainWhatIsWrong) {
  const auto build = [](const ModelOptions& options) {
    return error_of([&] { build_graph(options, images({1, 28, 28})); });
  };
  EXPECT_THAT(build(gated("mlp")), HasSubstr("'mlp' has no gates"));
  EXPECT_THAT(build(gated("resnet55-server")), HasSubstr("has no gates"));
  ModelOptions options;
  options.gate_ratio = 0.5;
  EXPECT_THAT(build(options), HasSubstr("do nothing without gates"));
  options = {};
  options.gate_sigmoid = true;
  EXPECT_THAT(build(options), HasSubstr("do nothing without gates"));
  options = {};
  options.gate_init = "open";
  EXPECT_THAT(build(options), HasSubstr("do nothing without gates"));
  options = gated("cnn");
  options.gate_l1 = 1e-4;
  EXPECT_THAT(build(options), HasSubstr("mode \"fbs\""));
  options.gates = "fbs";
  EXPECT_EQ(build(options), "");
  ModelOptions lstm = gated("lstm");
  DataSpec tokens = images({6});
  tokens.kind = data::Kind::kTokens;
  tokens.vocabulary = 9;
  EXPECT_THAT(error_of([&] { make_trainer(lstm, tokens, {}); }), HasSubstr("'lstm' has no gates"));
}

// Trained by plain calls, as a client does.
TEST(Gates, GatedModelsLearn) {
  const data::Dataset set = block_images({1, 28, 28}, 100, 10);
  for (const std::string mode : {"gated", "fbs"}) {
    const auto trainer = make_trainer(gated("cnn", mode), spec_of(set), {});
    ParameterSet weights(trainer->layout());
    trainer->initialize(Key(1), weights);
    trainer->load(weights);
    const EvalSums before = trainer->evaluate(set, first_samples(100));
    StepOptions options;
    options.epochs = 4;
    trainer->fit(set, first_samples(100), options, {}, Key(2));
    const EvalSums after = trainer->evaluate(set, first_samples(100));
    EXPECT_LT(after.loss, 0.5 * before.loss) << mode;
    trainer->store(weights);
    EXPECT_DOUBLE_EQ(gate_ratio(weights).value(), 0.7);
    // The ratio is the weights', not the net's.
    set_gate_ratio(weights, 0.1);
    trainer->load(weights);
    EXPECT_GT(std::abs(trainer->evaluate(set, first_samples(100)).loss - after.loss), 1e-3);
  }
}

}  // namespace
}  // namespace espalier::models

#include "espalier/nn/graph_net.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "espalier/models/test_problem.h"
#include "espalier/nn/dot_linear.h"
#ifdef ESPALIER_TORCH  // the reference of some tests
#include "espalier/torch/torch_net.h"
#endif

namespace espalier::models {
namespace {

struct ModelCase {
  std::string name;
  std::vector<int64_t> shape;
  int64_t batch;
  std::string norm = "batch";
  double width = 1.0;
  std::string gates = "none";
  double ratio = 0.7;
  bool sigmoid = false;
  double l1 = 0;
};

std::string case_name(const ModelCase& c) {
  std::string name = c.name + "_" + c.norm + (c.width == 1.0 ? "" : "_narrow") + "_" +
                     std::to_string(c.shape.back());
  if (c.gates != "none") {
    name += "_" + c.gates + std::to_string(std::lround(10 * c.ratio)) +
            (c.sigmoid ? "_sigmoid" : "") + (c.l1 > 0 ? "_l1" : "");
  }
  for (char& letter : name) {
    if (letter == '-') letter = '_';
  }
  return name;
}

Graph graph_of(const ModelCase& c) {
  ModelOptions options;
  options.name = c.name;
  options.width = c.width;
  options.norm = c.norm;
  options.gates = c.gates;
  options.gate_ratio = c.ratio;
  options.gate_sigmoid = c.sigmoid;
  options.gate_l1 = c.l1;
  return graph_of(options, c.shape);
}

double norm(std::span<const float> x) { return std::sqrt(squared_norm(x)); }

class GraphNets : public testing::TestWithParam<ModelCase> {};

#ifdef ESPALIER_TORCH
// The engine and libtorch's autograd are two implementations of one function. Where a value is so
// near to 0 that rounding decides which side of a ReLU it is on, which processors do not agree
// about, gradients jump by a little: then another batch must be without such a value.
TEST_P(GraphNets, GradientsEqualAutograd) {
  const Graph graph = graph_of(GetParam());
  GraphNet engine(graph, Type::kFloat);
  const auto reference = torch::make_torch_graph_net(graph, "cpu");
  std::string difference;
  for (const uint64_t seed : {4U, 5U, 8U, 9U}) {
    const Problem problem(graph, GetParam().batch, {}, seed);
    ParameterSet ours = problem.weights, theirs = problem.weights;
    ParameterSet our_gradient(graph.layout), their_gradient(graph.layout);
    const BatchSums a = engine.train(problem.batch, ours.values(), our_gradient.values(), nullptr);
    const BatchSums b =
        reference->train(problem.batch, theirs.values(), their_gradient.values(), nullptr);
    EXPECT_NEAR(a.loss, b.loss, 1e-5 * b.loss);
    EXPECT_EQ(a.correct, b.correct);
    for (const ParameterInfo& tensor : graph.layout->tensors()) {
      EXPECT_LT(distance(ours.values(tensor), theirs.values(tensor)), 1e-5)
          << tensor.name;  // running statistics
    }
    difference = gradient_difference(our_gradient, their_gradient);
    if (difference.empty()) break;
    EXPECT_EQ(gradient_difference(our_gradient, their_gradient, 0.01), "");
  }
  EXPECT_EQ(difference, "");
}

// The way to another device and back changes no bit.
TEST_P(GraphNets, PackedTransfersEqualViews) {
  const Graph graph = graph_of(GetParam());
  const Problem problem(graph, GetParam().batch);
  const auto views = torch::make_torch_graph_net(graph, "cpu"),
             packed = torch::make_packed_torch_graph_net(graph);
  ParameterSet a = problem.weights, b = problem.weights;
  ParameterSet a_gradient(graph.layout), b_gradient(graph.layout);
  for (int step = 0; step < 2; ++step) {
    const double loss = views->train(problem.batch, a.values(), a_gradient.values(), nullptr).loss;
    EXPECT_EQ(packed->train(problem.batch, b.values(), b_gradient.values(), nullptr).loss, loss);
  }
  EXPECT_TRUE(std::ranges::equal(a.values(), b.values()));
  EXPECT_TRUE(std::ranges::equal(a_gradient.values(), b_gradient.values()));
  EXPECT_TRUE(std::ranges::equal(views->forward_training(problem.batch, a.values()),
                                 packed->forward_training(problem.batch, b.values())));
  EXPECT_TRUE(std::ranges::equal(a.values(), b.values()));
}
#endif

uint64_t training_macs(const Graph& graph, Type type = Type::kFloat) {
  const Problem problem(graph, 6);
  GraphNet net(graph, type);
  ParameterSet weights = problem.weights, gradient(graph.layout);
  return net.train(problem.batch, weights.values(), gradient.values(), nullptr).macs;
}

// Forward, gradients of the weights, and gradients of the inputs but for the layer that reads the
// samples.
TEST(TrainingProducts, AreCountedPerLayerAndDirection) {
  ModelOptions mlp;
  mlp.name = "mlp";
  mlp.hidden = {5};
  EXPECT_EQ(training_macs(graph_of(mlp, {8})), 6U * (2 * 8 * 5 + 3 * 5 * 10));
  ModelOptions resnet;
  resnet.name = "resnet8";
  resnet.width = 0.25;
  const Graph graph = graph_of(resnet, {3, 8, 8});
  const uint64_t first = uint64_t{4} * 64 * 27;  // the first convolution's forward pass
  EXPECT_EQ(training_macs(graph), 6 * (3 * graph.macs - first));
  EXPECT_EQ(dense_training_macs(graph), 3 * graph.macs - first);
}

// A convolution in front of a pooling looks at the outputs alone that the pooling has chosen and
// the ReLU has let pass.
TEST(TrainingProducts, LeaveOutWhatAPoolingThrowsAway) {
  GraphBuilder builder("pooled", {16, 8, 8});
  const int conv =
      builder.conv("conv", kGraphInput, {.channels = 4, .kernel = 3, .padding = 1, .relu = true});
  builder.flatten(builder.max_pool(conv, 2));
  builder.linear("fc", 2, 10, false);
  const Graph graph = std::move(builder).finish();
  GraphBuilder front("pooled", {16, 8, 8});
  const int same =
      front.conv("conv", kGraphInput, {.channels = 4, .kernel = 3, .padding = 1, .relu = true});
  front.flatten(front.max_pool(same, 2));
  const Graph pooled = std::move(front).finish();
  const Problem problem(graph, 6);
  ParameterSet weights(pooled.layout);
  for (const ParameterInfo& tensor : pooled.layout->tensors())
    std::ranges::copy(problem.weights.values(*graph.layout->find(tensor.name)),
                      weights.values(tensor).begin());
  std::vector<float> values(6 * 4 * 16);
  GraphNet(pooled, Type::kFloat).predict(problem.batch, weights.values(), {}, values);
  const auto positive =
      static_cast<uint64_t>(std::ranges::count_if(values, [](float value) { return value > 0; }));
  ASSERT_GT(positive, 0U);
  const uint64_t taps = 16 * 9, linear = 3 * 64 * 10;
  EXPECT_EQ(training_macs(graph), 6 * (4 * 64 * taps + linear) + positive * taps);
  EXPECT_LT(training_macs(graph), 6 * dense_training_macs(graph));
}

#ifdef ESPALIER_TORCH
TEST_P(GraphNets, EvaluationEqualsLibtorch) {
  const Graph graph = graph_of(GetParam());
  const Problem problem(graph, GetParam().batch);
  GraphNet engine(graph, Type::kFloat);
  const auto reference = torch::make_torch_graph_net(graph, "cpu");
  const BatchSums a = engine.evaluate(problem.batch, problem.weights.values());
  const BatchSums b = reference->evaluate(problem.batch, problem.weights.values());
  EXPECT_NEAR(a.loss, b.loss, 1e-5 * b.loss);
  EXPECT_EQ(a.correct, b.correct);
  EXPECT_LT(distance(engine.logits(), reference->logits()), 1e-5);
}
#endif

#ifdef ESPALIER_TORCH
TEST_P(GraphNets, PredictionsEqualLibtorch) {
  const Graph graph = graph_of(GetParam());
  const Problem problem(graph, GetParam().batch);
  GraphNet engine(graph, Type::kFloat);
  const auto reference = torch::make_torch_graph_net(graph, "cpu");
  EXPECT_EQ(engine.feature_shape(), reference->feature_shape());
  EXPECT_EQ(engine.extractor_tensors(), reference->extractor_tensors());
  ASSERT_EQ(engine.feature_shape().empty(), GetParam().name.find("-client") == std::string::npos);
  size_t values = engine.feature_shape().empty() ? 0 : static_cast<size_t>(problem.batch.size);
  for (const int64_t extent : engine.feature_shape()) values *= static_cast<size_t>(extent);
  const size_t size = static_cast<size_t>(problem.batch.size) * 10;
  std::vector<float> features(values), logits(size), expected_features(values), expected(size);
  const auto weights = problem.weights.values();
  reference->predict(problem.batch, weights, expected_features, expected);
  engine.predict(problem.batch, weights, features, logits);
  EXPECT_LT(distance(logits, expected), 1e-5);
  std::vector<float> alone(size);
  engine.predict(problem.batch, weights, {}, alone);
  EXPECT_EQ(alone, logits);
  engine.evaluate(problem.batch, weights);
  EXPECT_TRUE(std::ranges::equal(engine.logits(), logits));
  if (values == 0) return;
  EXPECT_GT(norm(expected_features), 0.1);
  EXPECT_LT(distance(features, expected_features), 1e-5);
  std::vector<float> again(values);
  engine.predict(problem.batch, weights, again, {});
  EXPECT_EQ(again, features);
  if (!computes_bf16()) return;
  GraphNet(graph, Type::kBf16).predict(problem.batch, weights, again, {});
  EXPECT_LT(distance(again, expected_features), 0.02);
  EXPECT_GT(distance(again, expected_features), 0);
}
#endif

TEST_P(GraphNets, FusedUpdateEqualsGradientThenStep) {
  const Graph graph = graph_of(GetParam());
  const Problem problem(graph, GetParam().batch);
  GraphNet engine(graph, Type::kFloat);
  ParameterSet plain = problem.weights, fused = problem.weights, gradient(graph.layout);
  const SgdUpdate update{0.1f, 0.9f};
  engine.train(problem.batch, plain.values(), gradient.values(), nullptr);
  ParameterSet expected = problem.weights;
  engine.train(problem.batch, fused.values(), gradient.values(), &update);
  ASSERT_EQ(engine.fused_tensors().empty(), GetParam().name == "all-cnn");
  engine.train(problem.batch, expected.values(), gradient.values(), nullptr);
  for (const size_t i : engine.fused_tensors()) {
    const ParameterInfo& tensor = graph.layout->tensors()[i];
    const auto before = problem.weights.values(tensor), g = std::as_const(gradient).values(tensor);
    const auto after = std::as_const(fused).values(tensor);
    for (size_t j = 0; j < before.size(); ++j)
      ASSERT_NEAR(after[j], 0.9f * before[j] - 0.1f * g[j], 1e-6) << tensor.name;
  }
}

TEST_P(GraphNets, AStepFromWeightsElsewhereGivesTheSameBits) {
  const Graph graph = graph_of(GetParam());
  const Problem problem(graph, GetParam().batch);
  for (const Type type : types()) {
    GraphNet engine(graph, type);
    ParameterSet expected = problem.weights, gradient(graph.layout), other(graph.layout);
    SgdUpdate update{0.1f, 0.9f};
    const BatchSums sums =
        engine.train(problem.batch, expected.values(), gradient.values(), &update);
    std::ranges::fill(other.values(), NAN);
    update.from = problem.weights.values().data();
    ASSERT_TRUE(engine.reads_elsewhere());
    EXPECT_EQ(engine.train(problem.batch, other.values(), gradient.values(), &update).loss,
              sums.loss);
    EXPECT_TRUE(std::ranges::equal(other.values(), expected.values()));
  }
}

// However a batch is cut: 1, 2, 3, … samples at a time, the last ones twice where it does not come
// out even.
TEST_P(GraphNets, SlicesChangeNothing) {
  constexpr int64_t kSize = 13;
  const Graph graph = graph_of(GetParam());
  const Problem problem(graph, kSize);
  for (const Type type : types()) {
    GraphNet whole(graph, type, size_t{1} << 40);
    const BatchSums expected = whole.evaluate(problem.batch, problem.weights.values());
    std::vector<float> features, other;
    for (const int64_t extent : whole.feature_shape())
      features.resize(std::max<size_t>(kSize, features.size()) * static_cast<size_t>(extent));
    other.resize(features.size());
    const std::vector<float> logits(whole.logits().begin(), whole.logits().end());
    if (!features.empty()) whole.predict(problem.batch, problem.weights.values(), features, {});
    for (const size_t bytes : {1U, 100'000U, 300'000U, 600'000U}) {
      GraphNet sliced(graph, type, bytes);
      const BatchSums sums = sliced.evaluate(problem.batch, problem.weights.values());
      EXPECT_EQ(sums.loss, expected.loss) << bytes;
      EXPECT_EQ(sums.correct, expected.correct);
      EXPECT_TRUE(std::ranges::equal(sliced.logits(), logits)) << bytes;
      if (features.empty()) continue;
      std::vector<float> again(logits.size());
      sliced.predict(problem.batch, problem.weights.values(), other, again);
      EXPECT_EQ(other, features);
      EXPECT_EQ(again, logits);
    }
  }
}

// What bf16 nets do with a large linear layer: its inputs and weights are rounded, in the training
// of a small batch and in any evaluation, and nothing else is.
TEST(GraphNets, Bf16RoundsWhatLargeLinearLayersMultiply) {
  ModelOptions options;
  options.name = "mlp";
  options.hidden = {1024};
  const Graph graph = graph_of(options, {1, 28, 28});
  if (!dot_linear({10, 784, 1024})) GTEST_SKIP() << "this processor has no dot product of bf16";
  const auto round = [](std::span<float> values) {
    for (float& value : values) {
      Bf16 half;
      put(half, value);
      value = to_float(half);
    }
  };
  for (const int64_t size : {10, 33}) {
    Problem plain(graph, size), rounded(graph, size);
    round(rounded.values);
    round(rounded.weights.values(graph.layout->tensors()[0]));
    GraphNet exact(graph, Type::kFloat), rough(graph, Type::kBf16);
    exact.evaluate(rounded.batch, rounded.weights.values());
    rough.evaluate(plain.batch, plain.weights.values());
    const std::vector<float> expected(exact.logits().begin(), exact.logits().end());
    EXPECT_LT(distance(rough.logits(), expected), 1e-6);
    const auto trained = rough.forward_training(plain.batch, plain.weights.values());
    if (size == 10) {
      EXPECT_LT(distance(trained, expected), 1e-6);
    }
    exact.evaluate(plain.batch, plain.weights.values());
    EXPECT_GT(distance(exact.logits(), expected), 1e-4);
  }
}

// bf16 has 8 significant bits: losses agree to about a percent, gradients point the same way,
// logits keep their order of size.
TEST_P(GraphNets, Bf16StaysNearFp32) {
  if (!computes_bf16()) GTEST_SKIP() << "this processor has no AVX-512";
  const Graph graph = graph_of(GetParam());
  const Problem problem(graph, GetParam().batch);
  GraphNet exact(graph, Type::kFloat), rough(graph, Type::kBf16);
  ParameterSet a = problem.weights, b = problem.weights, exact_gradient(graph.layout),
               rough_gradient(graph.layout);
  const BatchSums x = exact.train(problem.batch, a.values(), exact_gradient.values(), nullptr);
  const BatchSums y = rough.train(problem.batch, b.values(), rough_gradient.values(), nullptr);
  // Rounding may let another channel survive, which changes values by jumps.
  const bool jumps = GetParam().gates != "none" && GetParam().ratio < 1;
  EXPECT_NEAR(x.loss, y.loss, (jumps ? 0.1 : 0.03) * x.loss);
  double product = 0;
  for (size_t i = 0; i < exact_gradient.size(); ++i) {
    product += static_cast<double>(exact_gradient.values()[i]) *
               static_cast<double>(rough_gradient.values()[i]);
  }
  // Cosine. Deep nets with random weights, a tiny batch and a normalization after every layer
  // amplify rounding.
  const double cosine = product / norm(exact_gradient.values()) / norm(rough_gradient.values());
  const std::string& name = GetParam().name;
  EXPECT_GT(cosine, name == "resnet56"                                                   ? 0.8
                    : jumps                                                              ? 0.9
                    : name == "resnet20" || name == "vgg11" || name == "resnet55-server" ? 0.95
                                                                                         : 0.99);
  const BatchSums u = exact.evaluate(problem.batch, problem.weights.values());
  const BatchSums v = rough.evaluate(problem.batch, problem.weights.values());
  EXPECT_NEAR(u.loss, v.loss, (jumps ? 0.1 : 0.03) * u.loss);
  for (const ParameterInfo& tensor : graph.layout->tensors()) {
    if (tensor.role == Role::kStatistic) {
      EXPECT_LT(distance(b.values(tensor), a.values(tensor)), jumps ? 0.05 : 0.02) << tensor.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, GraphNets,
    testing::Values(
        ModelCase{"mlp", {1, 28, 28}, 10}, ModelCase{"mlp", {3, 8, 8}, 7},
        ModelCase{"mlp", {20}, 5}, ModelCase{"cnn", {1, 28, 28}, 10},
        ModelCase{"cnn", {3, 33, 33}, 3}, ModelCase{"cnn", {1, 28, 28}, 4, "batch", 0.4},
        ModelCase{"cnn-cifar", {3, 32, 32}, 4}, ModelCase{"all-cnn", {3, 16, 16}, 2},
        ModelCase{"resnet8", {3, 32, 32}, 4}, ModelCase{"resnet8", {3, 32, 32}, 4, "group"},
        ModelCase{"resnet8", {1, 28, 28}, 5, "batch", 0.7},
        ModelCase{"resnet8", {3, 16, 16}, 3, "group", 1.5}, ModelCase{"resnet20", {3, 16, 16}, 8},
        ModelCase{"resnet56", {3, 8, 8}, 8}, ModelCase{"resnet8-client", {3, 12, 12}, 4},
        ModelCase{"resnet8-client", {3, 9, 9}, 5, "group"},
        ModelCase{"small-client", {1, 28, 28}, 6}, ModelCase{"small-server", {16, 14, 14}, 6},
        ModelCase{"small-client", {1, 1, 3}, 9},
        ModelCase{"resnet55-server", {16, 4, 4}, 3, "group"},
        ModelCase{"vgg11", {3, 32, 32}, 6, "batch", 0.25},
        ModelCase{"cnn", {1, 28, 28}, 6, "batch", 1, "gated", 0.5},
        ModelCase{"cnn", {1, 28, 28}, 5, "batch", 1, "gated", 0.7, true},
        ModelCase{"cnn", {3, 20, 20}, 5, "batch", 0.4, "fbs", 0.7, false, 0.01},
        ModelCase{"cnn", {1, 28, 28}, 5, "batch", 1, "fbs", 0.5, true},
        ModelCase{"cnn-cifar", {3, 16, 16}, 6, "batch", 1, "gated", 0.7},
        ModelCase{"cnn-cifar", {3, 16, 16}, 6, "batch", 1, "fbs", 0.7},
        ModelCase{"all-cnn", {3, 16, 16}, 3, "batch", 1, "gated", 0.7, true},
        ModelCase{"all-cnn", {3, 16, 16}, 3, "batch", 0.3, "fbs", 0.5, true},
        ModelCase{"vgg11", {3, 32, 32}, 6, "batch", 0.25, "gated", 0.5},
        ModelCase{"vgg11", {3, 32, 32}, 6, "batch", 0.25, "gated", 1, true},
        ModelCase{"vgg11", {3, 32, 32}, 6, "batch", 0.3, "fbs", 0.7},
        ModelCase{"resnet8", {3, 32, 32}, 4, "batch", 1, "gated", 0.5},
        ModelCase{"resnet8", {3, 16, 16}, 6, "batch", 1, "gated", 0.7, true},
        ModelCase{"resnet8", {3, 16, 16}, 6, "batch", 1, "gated", 1},
        ModelCase{"resnet8", {3, 32, 32}, 4, "group", 1, "gated", 0.7},
        ModelCase{"resnet8", {1, 28, 28}, 5, "batch", 0.7, "gated", 0.7},
        ModelCase{"resnet8", {3, 16, 16}, 6, "batch", 1, "fbs", 0.5, false, 0.01},
        ModelCase{"resnet8", {3, 16, 16}, 6, "group", 1, "fbs", 0.7, true}),
    [](const auto& test) { return case_name(test.param); });

}  // namespace
}  // namespace espalier::models

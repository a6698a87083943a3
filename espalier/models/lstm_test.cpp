#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <thread>

#include "espalier/base/bytes.h"
#include "espalier/base/file.h"
#include "espalier/base/memory_use.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/models.h"
#include "espalier/models/process.h"
#include "espalier/models/weight_uses.h"
#include "espalier/nn/graph_net.h"
#include "espalier/nn/lstm_kernels.h"
#include "espalier/train/test_data.h"
#ifdef ESPALIER_TORCH  // the reference of some tests
#include "espalier/torch/torch_net.h"
#endif

namespace espalier::models {
namespace {

using testing::HasSubstr;

DataSpec token_spec(int64_t length, int64_t vocabulary, int64_t classes) {
  DataSpec data;
  data.kind = data::Kind::kTokens;
  data.sample_shape = {length};
  data.vocabulary = vocabulary;
  data.num_classes = classes;
  return data;
}

// The model with these widths: that of the widest, narrowed.
Graph graph_of(int64_t embedding, const std::vector<int64_t>& widths, const DataSpec& data) {
  ModelOptions options;
  options.name = "lstm";
  options.embedding = embedding + 2;
  options.lstm_units = *std::ranges::max_element(widths) + 1;
  options.lstm_layers = static_cast<int64_t>(widths.size());
  std::vector<int64_t> units = {embedding};
  units.insert(units.end(), widths.begin(), widths.end());
  return narrow(*build_graph(options, data), units);
}

struct TokenBatch {
  std::vector<int64_t> tokens, labels;
  Batch batch;
  TokenBatch(int64_t size, const DataSpec& data) {
    Stream stream(Key(4));
    for (int64_t i = 0; i < size * data.sample_shape[0]; ++i)
      tokens.push_back(static_cast<int64_t>(stream.below(static_cast<uint64_t>(data.vocabulary))));
    for (int64_t i = 0; i < size; ++i)
      labels.push_back(static_cast<int64_t>(stream.below(static_cast<uint64_t>(data.num_classes))));
    batch = {.size = size, .values = {}, .tokens = tokens, .labels = labels};
  }
};

double relative_distance(std::span<const float> a, std::span<const float> b) {
  std::vector<float> difference(a.size());
  subtract(a, b, difference);
  return std::sqrt(squared_norm(difference) / std::max(squared_norm(b), 1e-30));
}

// tests/reference/train/make_lstm.py
TEST(Lstm, LossesAndGradientsEqualPyTorch) {
  const Json file =
      Json::parse(read_text_file(std::filesystem::path(ESPALIER_TRAIN_REFERENCE) / "lstm.json"));
  ASSERT_EQ(file.size(), 7U);
  for (const auto& [name, expected] : file.items()) {
    SCOPED_TRACE(name);
    const int64_t length = expected["length"], size = expected["batch"];
    const Graph graph =
        graph_of(expected["embedding"], expected["widths"], token_spec(length, 7, 5));
    ParameterSet weights(graph.layout), gradients(graph.layout);
    for (const ParameterInfo& tensor : graph.layout->tensors()) {
      int phase = 0;
      for (const char c : tensor.name) phase += c;
      size_t i = 0;
      for (float& value : weights.values(tensor)) {
        value =
            static_cast<float>(0.6 * std::sin(0.7 * static_cast<double>(++i) + 1.3 * (phase % 97)));
      }
    }
    std::vector<int64_t> tokens, labels;
    for (int64_t i = 0; i < size * length; ++i) tokens.push_back((5 * i + i * i / 3) % 7);
    for (int64_t i = 0; i < size; ++i) labels.push_back((3 * i + 1) % 5);
    const Batch batch{.size = size, .values = {}, .tokens = tokens, .labels = labels};
    for (float& value : gradients.values()) value = 99;  // no zeroing is needed before
    GraphNet net(graph, Type::kFloat);
    const BatchSums sums = net.train(batch, weights.values(), gradients.values(), nullptr);
    const double loss = expected["loss"].get<double>() * static_cast<double>(size);
    EXPECT_NEAR(sums.loss, loss, 1e-5 * loss);
    EXPECT_NEAR(net.evaluate(batch, weights.values()).loss, loss, 1e-5 * loss);
    ASSERT_EQ(expected["gradients"].size(), graph.layout->tensors().size());
    for (const ParameterInfo& tensor : graph.layout->tensors()) {
      const Json& numbers = expected["gradients"][tensor.name];
      const auto found = std::as_const(gradients).values(tensor);
      double total = 0, wave = 0;
      for (size_t i = 0; i < found.size(); ++i) {
        total += static_cast<double>(found[i]);
        wave += static_cast<double>(found[i]) * std::sin(static_cast<double>(i + 1));
      }
      const double norm = numbers["norm"].get<double>(), allowed = 1e-5 * norm;
      EXPECT_NEAR(std::sqrt(squared_norm(found)), norm, allowed) << tensor.name;
      EXPECT_NEAR(total, numbers["sum"].get<double>(), allowed * 3) << tensor.name;
      EXPECT_NEAR(wave, numbers["wave"].get<double>(), allowed * 3) << tensor.name;
      const auto first = numbers["first"].get<std::vector<double>>();
      for (size_t i = 0; i < first.size(); ++i)
        EXPECT_NEAR(found[i], first[i], allowed) << tensor.name << " " << i;
    }
  }
}

#ifdef ESPALIER_TORCH
TEST(Lstm, EqualsLibtorchAtFullSize) {
  struct Case {
    int64_t embedding;
    std::vector<int64_t> widths;
    int64_t length, batch;
  };
  const Case cases[] = {{8, {256, 256}, 80, 10}, {8, {100, 37}, 20, 7}, {5, {64}, 80, 1}};
  for (const Case& c : cases) {
    const DataSpec data = token_spec(c.length, 86, 86);
    const Graph graph = graph_of(c.embedding, c.widths, data);
    const TokenBatch problem(c.batch, data);
    ParameterSet weights(graph.layout), ours(graph.layout), theirs(graph.layout);
    draw_parameters(graph.init, Key(3), weights);
    GraphNet engine(graph, Type::kFloat);
    const auto reference = torch::make_torch_graph_net(graph, "cpu");
    const BatchSums a = engine.train(problem.batch, weights.values(), ours.values(), nullptr);
    const BatchSums b = reference->train(problem.batch, weights.values(), theirs.values(), nullptr);
    EXPECT_NEAR(a.loss, b.loss, 1e-5 * b.loss);
    EXPECT_EQ(a.correct, b.correct);
    for (const ParameterInfo& tensor : graph.layout->tensors()) {
      EXPECT_LT(relative_distance(ours.values(tensor), theirs.values(tensor)), 1e-5) << tensor.name;
    }
  }
}
#endif

// Evaluation makes the input's products some steps at a time and keeps two steps' states.
TEST(Lstm, EvaluationIsTrainingsForwardPass) {
  const DataSpec data = token_spec(23, 11, 9);
  for (const int64_t size : {1, 17, 64, 300}) {
    const Graph graph = graph_of(4, {12, 8}, data);
    const TokenBatch problem(size, data);
    ParameterSet weights(graph.layout);
    draw_parameters(graph.init, Key(3), weights);
    GraphNet net(graph, Type::kFloat);
    const auto trained = net.forward_training(problem.batch, weights.values());
    const std::vector<float> expected(trained.begin(), trained.end());
    net.evaluate(problem.batch, weights.values());
    EXPECT_LT(relative_distance(net.logits(), expected), 1e-6) << size;
    std::vector<float> predicted(expected.size());
    net.predict(problem.batch, weights.values(), {}, predicted);
    EXPECT_TRUE(std::ranges::equal(predicted, net.logits()));
  }
}

TEST(Lstm, GradientIsTheSlope) {
  const DataSpec data = token_spec(12, 20, 20);
  const Graph graph = graph_of(8, {6, 5}, data);
  const TokenBatch problem(2, data);
  GraphNet net(graph, Type::kFloat);
  ParameterSet weights(graph.layout), gradients(graph.layout);
  net.initialize(Key(1), weights);
  net.train(problem.batch, weights.values(), gradients.values(), nullptr);
  // Tensor by tensor: along its gradient the loss rises by the squared norm.
  for (const ParameterInfo& tensor : graph.layout->tensors()) {
    const double slope = squared_norm(gradients.values(tensor)), step = 2e-2 / std::sqrt(slope);
    ParameterSet up = weights, down = weights;
    add_scaled(up.values(tensor), static_cast<float>(step), gradients.values(tensor));
    add_scaled(down.values(tensor), static_cast<float>(-step), gradients.values(tensor));
    const double rise = (net.evaluate(problem.batch, up.values()).loss -
                         net.evaluate(problem.batch, down.values()).loss) /
                        2 / (2 * step);
    EXPECT_NEAR(rise / slope, 1.0, 5e-3) << tensor.name;
  }
}

TEST(Lstm, FusedUpdateEqualsGradientThenStep) {
  for (const int64_t length : {1, 5}) {
    const DataSpec data = token_spec(length, 11, 9);
    const Graph graph = graph_of(4, {12, 8}, data);
    const TokenBatch problem(6, data);
    GraphNet net(graph, Type::kFloat);
    ParameterSet plain(graph.layout), gradient(graph.layout), unused(graph.layout);
    net.initialize(Key(1), plain);
    ParameterSet fused = plain;
    const SgdUpdate update{0.1f, 0.9f};
    const BatchSums a = net.train(problem.batch, plain.values(), gradient.values(), nullptr);
    const BatchSums b = net.train(problem.batch, fused.values(), unused.values(), &update);
    EXPECT_EQ(a.loss, b.loss);
    const std::vector<size_t> tensors = net.fused_tensors();
    ASSERT_EQ(tensors.size(), 5U);
    for (const size_t i : tensors) {
      const ParameterInfo& tensor = graph.layout->tensors()[i];
      const auto w = std::as_const(plain).values(tensor),
                 g = std::as_const(gradient).values(tensor),
                 after = std::as_const(fused).values(tensor);
      for (size_t j = 0; j < w.size(); ++j)
        ASSERT_NEAR(after[j], 0.9f * w[j] - 0.1f * g[j], 1e-6) << tensor.name;
      EXPECT_EQ(squared_norm(unused.values(tensor)), 0);
    }
  }
}

// Of what the model drew when libtorch ran it, under Key(42).
constexpr uint32_t kWholeDigest = 2193222747U, kNarrowDigest = 1656805739U;

// Old runs and files depend on what follows.
TEST(Lstm, LayoutAndStartAreThoseOfTheFirstVersion) {
  ModelOptions options;
  options.name = "lstm";
  options.embedding = 3;
  options.lstm_units = 5;
  const DataSpec data = token_spec(12, 20, 10);
  const auto layout = model_layout(options, data);
  std::string text;
  for (const UnitGroup& group : layout->groups()) text += concat(group.name, ":", group.size, " ");
  for (const ParameterInfo& tensor : layout->tensors()) {
    text += concat("\n", tensor.name, " ", shape_text(tensor.shape), " ", role_name(tensor.role));
    for (const AxisUnits& part : tensor.units) {
      text += concat(" axis ", part.axis, " group ", part.group, " ", part.blocks, "x", part.repeat,
                     "+", part.offset);
    }
  }
  EXPECT_EQ(text,
            "embedding:3 lstm_l0:5 lstm_l1:5 \n"
            "embedding.weight [20, 3] embedding axis 1 group 0 1x1+0\n"
            "lstm.weight_ih_l0 [20, 3] weight axis 0 group 1 4x1+0 axis 1 group 0 1x1+0\n"
            "lstm.weight_hh_l0 [20, 5] weight axis 0 group 1 4x1+0 axis 1 group 1 1x1+0\n"
            "lstm.bias_ih_l0 [20] bias axis 0 group 1 4x1+0\n"
            "lstm.bias_hh_l0 [20] bias axis 0 group 1 4x1+0\n"
            "lstm.weight_ih_l1 [20, 5] weight axis 0 group 2 4x1+0 axis 1 group 1 1x1+0\n"
            "lstm.weight_hh_l1 [20, 5] weight axis 0 group 2 4x1+0 axis 1 group 2 1x1+0\n"
            "lstm.bias_ih_l1 [20] bias axis 0 group 2 4x1+0\n"
            "lstm.bias_hh_l1 [20] bias axis 0 group 2 4x1+0\n"
            "fc.weight [10, 5] weight axis 1 group 2 1x1+0\n"
            "fc.bias [10] bias");
  const auto digest = [&](std::span<const int64_t> units) {
    const auto trainer = make_trainer(options, data, {}, units);
    ParameterSet weights(trainer->layout());
    trainer->initialize(Key(42), weights);
    const auto values = std::as_const(weights).values();
    return crc32({reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()});
  };
  EXPECT_EQ(digest({}), kWholeDigest);
  EXPECT_EQ(digest(std::vector<int64_t>{2, 4, 3}), kNarrowDigest);
}

TEST(Lstm, ShapesAndProducts) {
  ModelOptions options;
  options.name = "lstm";
  const DataSpec data = token_spec(12, 20, 20);
  const auto trainer = make_trainer(options, data, {});
  EXPECT_EQ(trainer->layout()->num_trainable(),
            20 * 8 + 1024 * (8 + 256 + 2) + 1024 * (256 + 256 + 2) + 20 * 256 + 20);
  EXPECT_EQ(trainer->macs_per_sample(), 12U * 1024 * (8 + 256) + 12U * 1024 * 512 + 20 * 256);
  EXPECT_EQ(make_trainer(options, data, {}, std::vector<int64_t>{4, 100, 50})->macs_per_sample(),
            12U * 400 * (4 + 100) + 12U * 200 * 150 + 20 * 50);
  EXPECT_EQ(weight_uses(options, data),
            (std::vector<int64_t>{0, 12, 12, 0, 0, 12, 12, 0, 0, 1, 0}));
}

TEST(Lstm, TrainingBytesAreTheBuffersOfTheReplica) {
  data::Dataset set;
  set.name = "text";
  set.kind = data::Kind::kTokens;
  set.sample_shape = {40};
  set.vocabulary = set.num_classes = 20;
  for (int i = 0; i < 60; ++i) {
    set.labels.push_back(i % 20);
    for (int j = 0; j < 40; ++j) set.tokens.push_back((i + j) % 20);
  }
  set.validate();
  ModelOptions model;
  model.name = "lstm";
  model.lstm_units = 96;
  StepOptions options;
  options.batch_size = 30;
  const auto make = [&] { return make_trainer(model, spec_of(set), {}); };
  const uint64_t bytes = make()->training_bytes(30, options);
  // Gates, cells and hidden states of both layers at every step.
  EXPECT_GT(bytes, 2U * 40 * 30 * 6 * 96 * sizeof(float));
  make()->fit(set, first_samples(60), options, {}, Key(1));  // the libraries set themselves up
  const auto heap = [] {
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd + taken_block_bytes();
  };
  const size_t before = heap();
  if (mallinfo2().uordblks == 0) GTEST_SKIP() << "the sanitizer's heap does not count";
  const auto replica = make();
  replica->fit(set, first_samples(60), options, {}, Key(1));
  const size_t taken = heap() - before;
  EXPECT_GE(taken, bytes);
  // Plans, oneDNN's primitives, and what rounds large blocks up.
  EXPECT_LE(taken, bytes + (800U << 10));
}

TEST(Lstm, SameBytesInAnyThreadAndAfterOtherWork) {
  const DataSpec data = token_spec(9, 11, 9);
  const Graph graph = graph_of(4, {33, 20}, data);
  const TokenBatch problem(6, data), other(4, data);
  ParameterSet weights(graph.layout), first(graph.layout), second(graph.layout);
  draw_parameters(graph.init, Key(3), weights);
  GraphNet net(graph, Type::kFloat);
  net.train(problem.batch, weights.values(), first.values(), nullptr);
  net.train(other.batch, weights.values(), second.values(), nullptr);
  net.evaluate(problem.batch, weights.values());
  std::thread([&] {
    configure_thread();
    net.train(problem.batch, weights.values(), second.values(), nullptr);
  }).join();
  EXPECT_TRUE(std::ranges::equal(first.values(), second.values()));
}

TEST(Lstm, ExplainsWhatIsWrong) {
  const auto message = [](auto body) -> std::string {
    try {
      body();
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing thrown";
  };
  ModelOptions options;
  options.name = "lstm";
  EXPECT_THAT(message([&] {
                make_trainer(options, token_spec(9, 11, 9), {"bf16", "cpu"});
              }),
              HasSubstr("model 'lstm' trains in fp32; set train.precision = \"fp32\""));
  EXPECT_THAT(
      message([&] {
        make_trainer(options, DataSpec{.sample_shape = {1, 8, 8}, .num_classes = 2}, {});
      }),
      HasSubstr("model 'lstm' expects sequences of tokens, got samples of shape [1, 8, 8]"));
}

TEST(Lstm, SigmoidAndTanhAreAccurate) {
  std::vector<float> x = {0, -0.0f, INFINITY, -INFINITY, NAN};
  for (double v = 1e-7; v < 90; v *= 1.003) {
    x.push_back(static_cast<float>(v));
    x.push_back(static_cast<float>(-v));
  }
  std::vector<float> s(x.size()), t(x.size());
  lstm_sigmoid(x.data(), x.size(), s.data());
  lstm_tanh(x.data(), x.size(), t.data());
  EXPECT_TRUE(std::isnan(s[4]) && std::isnan(t[4]));
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) continue;
    const double v = static_cast<double>(x[i]);
    const double sigmoid = 1 / (1 + std::exp(-v)), tanh = std::tanh(v);
    EXPECT_NEAR(s[i], sigmoid, 3e-7 * sigmoid + 1e-37) << x[i];
    EXPECT_NEAR(t[i], tanh, 3e-7 * std::abs(tanh)) << x[i];
  }
}

}  // namespace
}  // namespace espalier::models

#include "espalier/nn/loss.h"

#include <gtest/gtest.h>

#include <cmath>

#include "espalier/base/file.h"
#include "espalier/models/test_problem.h"
#include "espalier/nn/graph_net.h"
#include "espalier/params/safetensors.h"
#ifdef ESPALIER_TORCH  // the reference of some tests
#include "espalier/torch/torch_net.h"
#endif

namespace espalier::models {
namespace {

// Numbers of PyTorch (tests/reference/train/make_reference.py).
struct Reference {
  Json file =
      Json::parse(read_text_file(std::filesystem::path(ESPALIER_TRAIN_REFERENCE) / "losses.json"));
  std::vector<float> student = flat("student"), teacher = flat("teacher");
  std::vector<int64_t> labels = file["labels"].get<std::vector<int64_t>>();
  std::vector<uint8_t> classes = file["classes"].get<std::vector<uint8_t>>();

  std::vector<float> flat(const std::string& name) const {
    std::vector<float> all;
    for (const Json& row : file[name]) {
      for (const Json& value : row) all.push_back(value.get<float>());
    }
    return all;
  }
  Batch batch(const Json& row) const {
    Batch batch{.size = 4, .values = {}, .tokens = {}, .labels = labels};
    batch.teacher = teacher;
    if (row["masked"].get<bool>()) batch.classes = classes;
    batch.loss = {row["cross_entropy"].get<double>(), row["distillation"].get<double>(),
                  row["temperature"].get<double>()};
    return batch;
  }
};

TEST(Loss, EqualsPyTorch) {
  const Reference reference;
  ASSERT_EQ(reference.file["cases"].size(), 7U);
  for (const Json& row : reference.file["cases"]) {
    std::vector<float> gradient(24);
    const LossSums sums =
        batch_loss(reference.batch(row), reference.student.data(), 6, gradient.data());
    const double loss = row["loss"].get<double>();
    EXPECT_NEAR(sums.loss / 4, loss, 1e-5 * std::max(1.0, loss)) << row;
    for (size_t i = 0; i < 24; ++i)
      EXPECT_NEAR(gradient[i], row["gradient"][i].get<double>(), 1e-5) << row << i;
  }
}

TEST(Loss, MaskedClassesHaveNoGradientAndStillCountAsPredictions) {
  const std::vector<float> logits = {1, 9, 2};
  const std::vector<int64_t> labels = {1};
  const std::vector<uint8_t> classes = {1, 0};  // the third class is beyond the flags
  Batch batch{.size = 1, .values = {}, .tokens = {}, .labels = labels, .classes = classes};
  std::vector<float> gradient(3, 7.0f);
  const LossSums sums = batch_loss(batch, logits.data(), 3, gradient.data());
  EXPECT_EQ(sums.correct, 1U);
  EXPECT_NEAR(sums.loss, std::log(std::exp(1.0) + 2), 1e-6);
  EXPECT_NEAR(gradient[0], std::exp(1.0) / (std::exp(1.0) + 2), 1e-6);
  EXPECT_EQ(gradient[1], 0.0f);
  EXPECT_EQ(gradient[2], 0.0f);
}

// A student that equals its teacher has nothing to learn from it, and a distant one gives no
// infinity.
TEST(Loss, DistillationOfEqualAndOfExtremeLogits) {
  const std::vector<float> logits = {3, -200, 50, 0.5f}, other = {-300, 400, 0, 0};
  const std::vector<int64_t> labels = {0};
  Batch batch{.size = 1, .values = {}, .tokens = {}, .labels = labels, .teacher = logits};
  batch.loss = {.cross_entropy = 0, .distillation = 2, .temperature = 3};
  std::vector<float> gradient(4);
  EXPECT_EQ(batch_loss(batch, logits.data(), 4, gradient.data()).loss, 0);
  for (const float g : gradient) EXPECT_EQ(g, 0.0f);
  EXPECT_NEAR(batch_loss(batch, other.data(), 4, gradient.data()).loss, 2 * 9 * 400 / 3.0, 1e-2);
}

#ifdef ESPALIER_TORCH
// Both engines, whole nets: the gradient of every parameter under a loss of all terms.
TEST(Loss, EnginesAgree) {
  ModelOptions options;
  options.name = "resnet8";
  const Graph graph = graph_of(options, {3, 16, 16});
  ParameterSet weights(graph.layout);
  draw_parameters(graph.init, Key(3), weights);
  Stream stream(Key(4));
  std::vector<float> values(5 * 3 * 16 * 16), teacher(50);
  for (float& value : values) value = static_cast<float>(stream.normal());
  for (float& value : teacher) value = static_cast<float>(4 * stream.normal());
  const std::vector<int64_t> labels = {1, 0, 7, 7, 4};
  const std::vector<uint8_t> classes = {1, 1, 0, 0, 1, 0, 0, 1, 0, 0};
  Batch batch{.size = 5, .values = values, .tokens = {}, .labels = labels};
  batch.teacher = teacher;
  batch.classes = classes;
  batch.loss = {.cross_entropy = 0.5, .distillation = 1.5, .temperature = 3};

  GraphNet engine(graph, Type::kFloat);
  const auto reference = torch::make_torch_graph_net(graph, "cpu");
  ParameterSet ours = weights, theirs = weights, a(graph.layout), b(graph.layout),
               plain(graph.layout);
  const BatchSums x = engine.train(batch, ours.values(), a.values(), nullptr);
  const BatchSums y = reference->train(batch, theirs.values(), b.values(), nullptr);
  EXPECT_NEAR(x.loss, y.loss, 1e-5 * y.loss);
  EXPECT_EQ(x.correct, y.correct);
  std::vector<float> difference(a.size());
  subtract(a.values(), b.values(), difference);
  EXPECT_LT(squared_norm(difference), 1e-7 * squared_norm(b.values()));
  EXPECT_NEAR(engine.evaluate(batch, weights.values()).loss,
              reference->evaluate(batch, weights.values()).loss, 1e-3);
  // And it is not that of plain cross-entropy.
  batch.teacher = {};
  batch.classes = {};
  batch.loss = {};
  engine.train(batch, ours.values(), plain.values(), nullptr);
  subtract(a.values(), plain.values(), difference);
  EXPECT_GT(squared_norm(difference), 0.1 * squared_norm(plain.values()));
}
#endif

}  // namespace
}  // namespace espalier::models

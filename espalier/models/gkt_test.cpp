#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/test_error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/models.h"
#include "espalier/models/test_problem.h"
#include "espalier/nn/graph_net.h"
#include "espalier/params/safetensors.h"
#include "espalier/train/test_data.h"
#include "espalier/train/trainer.h"
#ifdef ESPALIER_TORCH  // the reference of some tests
#include "espalier/torch/torch_net.h"
#endif

// What training against another model's logits and cutting a model in two need: teachers, losses,
// optimizers that go on, feature maps.
namespace espalier::models {
namespace {

using testing::HasSubstr;

std::unique_ptr<Trainer> trainer_for(const std::string& model, const data::Dataset& set,
                                     uint64_t key = 1) {
  ModelOptions options;
  options.name = model;
  auto trainer = make_trainer(options, spec_of(set), {});
  ParameterSet weights(trainer->layout());
  trainer->initialize(Key(key), weights);
  trainer->load(weights);
  return trainer;
}

ParameterSet weights_of(const Trainer& trainer) {
  ParameterSet weights(trainer.layout());
  trainer.store(weights);
  return weights;
}

TEST(OptimizerState, TwoFitsWithItEqualOne) {
  const data::Dataset set = block_images({1, 6, 6}, 24, 3);
  struct Case {
    std::string name, optimizer;
    double momentum = 0;
    bool nesterov = false, amsgrad = false;
    size_t buffers = 0;
  };
  for (const Case& c :
       {Case{"plain", "sgd"}, Case{"momentum", "sgd", 0.9, false, false, 1},
        Case{"nesterov", "sgd", 0.9, true, false, 1}, Case{"adam", "adam", 0, false, false, 2},
        Case{"amsgrad", "adam", 0, false, true, 3}, Case{"adamw", "adamw", 0, false, false, 2}}) {
    StepOptions options;
    options.optimizer = c.optimizer;
    options.momentum = c.momentum;
    options.nesterov = c.nesterov;
    options.amsgrad = c.amsgrad;
    options.lr = 0.01;
    options.weight_decay = 0.01;
    const std::vector<uint32_t> sample = {5};  // one sample has one order
    const auto fit = [&](Trainer& trainer, int64_t epochs, OptimizerState* state) {
      options.epochs = epochs;
      FitHooks hooks;
      hooks.optimizer = state;
      trainer.fit(set, sample, options, hooks, Key(3));
    };
    const auto one = trainer_for("mlp", set), two = trainer_for("mlp", set),
               forgetful = trainer_for("mlp", set);
    OptimizerState whole, parts;
    fit(*one, 7, &whole);
    const ParameterSet expected = weights_of(*one);
    fit(*two, 3, &parts);
    const ParameterSet between = weights_of(*two);
    fit(*two, 2, nullptr);  // another client on the same replica
    two->load(between);
    fit(*two, 4, &parts);
    EXPECT_TRUE(std::ranges::equal(weights_of(*two).values(), expected.values())) << c.name;
    EXPECT_EQ(parts, whole) << c.name;
    EXPECT_EQ(parts.steps, 7U);
    EXPECT_EQ(parts.first.size() + parts.second.size() + parts.largest.size(),
              c.buffers * expected.size());
    fit(*forgetful, 3, nullptr);
    fit(*forgetful, 4, nullptr);
    EXPECT_EQ(std::ranges::equal(weights_of(*forgetful).values(), expected.values()),
              c.buffers == 0)
        << c.name;
  }
}

TEST(OptimizerState, OfAnotherOptimizerIsRefused) {
  const data::Dataset set = block_images({1, 6, 6}, 24, 3);
  const auto trainer = trainer_for("mlp", set);
  OptimizerState state;
  FitHooks hooks;
  hooks.optimizer = &state;
  StepOptions options;
  options.momentum = 0.5;
  trainer->fit(set, first_samples(10), options, hooks, Key(3));
  options.optimizer = "adam";
  EXPECT_THAT(error_of([&] { trainer->fit(set, first_samples(10), options, hooks, Key(3)); }),
              HasSubstr("do not change the model or train.optimizer"));
}

// One step of a linear model by SGD: the loss and the weights afterwards as PyTorch has them
// (tests/reference/train/make_gkt.py), for both sides of FedGKT, one sample without a teacher.
TEST(Teacher, StepsEqualPyTorch) {
  const Json file =
      Json::parse(read_text_file(std::filesystem::path(ESPALIER_TRAIN_REFERENCE) / "gkt.json"));
  data::Dataset set;
  set.name = "reference";
  set.kind = data::Kind::kFloat;
  set.sample_shape = {3};
  set.num_classes = 4;
  set.labels = file["labels"].get<std::vector<int32_t>>();
  for (const float x : file["x"].get<std::vector<float>>()) set.floats.push_back(x);
  set.validate();
  const auto teacher = file["teacher"].get<std::vector<float>>();
  const auto taught = file["taught"].get<std::vector<int>>();
  ModelOptions model;
  model.name = "mlp";
  model.hidden = {};
  const auto trainer = make_trainer(model, spec_of(set), {});
  ASSERT_EQ(file["cases"].size(), 6U);
  for (const Json& row : file["cases"]) {
    ParameterSet weights(trainer->layout());
    std::ranges::copy(file["weight"].get<std::vector<float>>(),
                      weights.values("fc1.weight").begin());
    std::ranges::copy(file["bias"].get<std::vector<float>>(), weights.values("fc1.bias").begin());
    trainer->load(weights);
    FitHooks hooks;
    hooks.loss = {row["cross_entropy"].get<double>(), row["distillation"].get<double>(),
                  row["temperature"].get<double>()};
    hooks.teacher = [&](uint32_t sample) {
      return taught[sample] != 0 ? teacher.data() + 4 * sample : nullptr;
    };
    StepOptions options;
    options.lr = 0.5;
    const FitResult fit = trainer->fit(set, first_samples(5), options, hooks, Key(8));
    trainer->store(weights);
    ASSERT_EQ(fit.steps, 1U);
    EXPECT_NEAR(fit.loss, row["loss"].get<double>(), 1e-5) << row;
    for (size_t i = 0; i < 12; ++i)
      EXPECT_NEAR(weights.values("fc1.weight")[i], row["weight"][i].get<double>(), 1e-5) << row;
    for (size_t i = 0; i < 4; ++i)
      EXPECT_NEAR(weights.values("fc1.bias")[i], row["bias"][i].get<double>(), 1e-5) << row;
  }
}

// A whole net of either side: the loss and the gradient of every parameter as PyTorch has them in
// float64 (tests/reference/train/make_gkt_nets.py, whose formulas are repeated here).
TEST(Teacher, GradientsOfWholeNetsEqualPyTorch) {
  const Json file = Json::parse(
      read_text_file(std::filesystem::path(ESPALIER_TRAIN_REFERENCE) / "gkt_nets.json"));
  ASSERT_EQ(file.size(), 2U);
  for (const Json& row : file) {
    data::Dataset set;
    set.name = "reference";
    set.kind = data::Kind::kFloat;
    set.sample_shape = row["shape"].get<std::vector<int64_t>>();
    set.num_classes = 5;
    set.labels = {0, 3, 1, 4, 2, 3};
    for (size_t i = 0; i < 6 * set.sample_size(); ++i)
      set.floats.push_back(static_cast<float>((31 * i + 7 * (i / 5)) % 23) / 8 - 11.0f / 8);
    set.validate();
    std::vector<float> teacher;
    for (size_t n = 0; n < 6; ++n) {
      for (size_t j = 0; j < 5; ++j)
        teacher.push_back((static_cast<float>((29 * n + 7 * j) % 31) - 15) * 0.2f);
    }
    const auto trainer = trainer_for(row["model"].get<std::string>(), set);
    ParameterSet before = weights_of(*trainer), after = before;
    for (const ParameterInfo& tensor : before.layout().tensors()) {
      if (!is_trainable(tensor.role)) continue;
      double phase = 0;
      for (const char letter : tensor.name) phase += static_cast<uint8_t>(letter);
      phase = std::fmod(phase, 97);
      const bool norm = tensor.role == Role::kNorm,
                 scale_of_norm = norm && tensor.name.ends_with("weight");
      double fan_in = 1;
      for (size_t d = 1; d < tensor.shape.size(); ++d)
        fan_in *= static_cast<double>(tensor.shape[d]);
      const double scale = tensor.role == Role::kWeight ? 1 / std::sqrt(fan_in) : 0.1;
      const auto values = before.values(tensor);
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] =
            static_cast<float>((scale_of_norm ? 1.0 : 0.0) +
                               scale * std::sin(0.7 * static_cast<double>(i + 1) + 1.3 * phase));
      }
    }
    trainer->load(before);
    FitHooks hooks;
    hooks.loss = {row["cross_entropy"].get<double>(), row["distillation"].get<double>(),
                  row["temperature"].get<double>()};
    hooks.teacher = [&](uint32_t sample) { return teacher.data() + 5 * sample; };
    std::vector<float> gradients;
    hooks.before_step = [&](std::span<const float>, std::span<float> values) {
      gradients.assign(values.begin(), values.end());
    };
    StepOptions options;
    options.batch_size = 6;
    const FitResult fit = trainer->fit(set, first_samples(6), options, hooks, Key(8));
    EXPECT_NEAR(fit.loss, row["loss"].get<double>(), 1e-5) << row["model"];
    size_t checked = 0;
    for (const ParameterInfo& tensor : before.layout().tensors()) {
      if (!is_trainable(tensor.role)) continue;
      ASSERT_TRUE(row["gradients"].contains(tensor.name)) << tensor.name;
      const Json& expected = row["gradients"][tensor.name];
      const auto mine = std::span(gradients).subspan(static_cast<size_t>(tensor.offset),
                                                     static_cast<size_t>(tensor.size));
      const double size = 1e-5 * (1 + expected["norm"].get<double>());
      double sum = 0;
      for (const float value : mine) sum += static_cast<double>(value);
      EXPECT_NEAR(std::sqrt(squared_norm(mine)), expected["norm"].get<double>(), size)
          << tensor.name;
      EXPECT_NEAR(sum, expected["sum"].get<double>(),
                  size * std::sqrt(static_cast<double>(tensor.size)))
          << tensor.name;
      for (size_t i = 0; i < expected["first"].size(); ++i)
        EXPECT_NEAR(mine[i], expected["first"][i].get<double>(), size) << tensor.name << " " << i;
      ++checked;
    }
    EXPECT_EQ(checked, row["gradients"].size());
  }
}

#ifdef ESPALIER_TORCH
// Both engines, the client's whole net: the gradient of every parameter.
TEST(Teacher, ClientGradientsEqualAutograd) {
  ModelOptions options;
  options.name = "resnet8-client";
  const Graph graph = graph_of(options, {3, 16, 16});
  ParameterSet weights(graph.layout);
  draw_parameters(graph.init, Key(3), weights);
  Stream stream(Key(4));
  std::vector<float> values(6 * 3 * 16 * 16), teacher(60);
  for (float& value : values) value = static_cast<float>(stream.normal());
  for (float& value : teacher) value = static_cast<float>(4 * stream.normal());
  const std::vector<int64_t> labels = {1, 0, 7, 7, 4, 9};
  const std::vector<uint8_t> taught = {1, 1, 0, 1, 0, 1};
  Batch batch{.size = 6, .values = values, .tokens = {}, .labels = labels};
  batch.teacher = teacher;
  batch.taught = taught;
  batch.loss = {.cross_entropy = 1, .distillation = 1, .temperature = 3};
  GraphNet engine(graph, Type::kFloat);
  const auto reference = torch::make_torch_graph_net(graph, "cpu");
  ParameterSet ours = weights, theirs = weights, a(graph.layout), b(graph.layout);
  const BatchSums x = engine.train(batch, ours.values(), a.values(), nullptr);
  const BatchSums y = reference->train(batch, theirs.values(), b.values(), nullptr);
  EXPECT_NEAR(x.loss, y.loss, 1e-5 * y.loss);
  expect_equal_gradients(a, b);
  // What stands in the row of a sample without a teacher is not read.
  std::fill_n(teacher.begin() + 20, 10, NAN);
  ParameterSet again = weights, c(graph.layout);
  engine.train(batch, again.values(), c.values(), nullptr);
  EXPECT_TRUE(std::ranges::equal(a.values(), c.values()));
}
#endif

TEST(Teacher, WithoutLogitsEqualsPlainTrainingAndSubmodelsKeepIt) {
  const data::Dataset set = block_images({1, 8, 8}, 30, 3);
  const auto run = [&](const FitHooks& hooks) {
    const auto trainer = trainer_for("resnet8-client", set);
    trainer->fit(set, first_samples(30), {}, hooks, Key(2));
    return weights_of(*trainer);
  };
  const std::vector<float> logits = {3, -2, 0};
  FitHooks plain, none, taught;
  none.loss = taught.loss = {1, 1, 3};
  none.teacher = [](uint32_t) -> const float* { return nullptr; };
  taught.teacher = [&](uint32_t) { return logits.data(); };
  const ParameterSet expected = run(plain);
  EXPECT_TRUE(std::ranges::equal(run(none).values(), expected.values()));
  const ParameterSet changed = run(taught);
  EXPECT_FALSE(std::ranges::equal(changed.values(), expected.values()));
  SubmodelTraining submodel;
  taught.submodel = &submodel;
  EXPECT_TRUE(std::ranges::equal(run(taught).values(), changed.values()));
  submodel.distillation = 0.5;
  EXPECT_THAT(error_of([&] { run(taught); }), HasSubstr("have a loss of their own"));
  taught.submodel = nullptr;
  taught.loss.temperature = 0;
  EXPECT_THAT(error_of([&] { run(taught); }), HasSubstr("temperature above 0"));
}

// The large net in one piece is its first layer followed by the server net.
TEST(FeatureMap, ClientAndServerMakeTheWholeNet) {
  const data::Dataset images = block_images({3, 8, 8}, 12, 4);
  const auto client = trainer_for("resnet8-client", images);
  const auto whole = trainer_for("resnet56-gkt", images, 5);
  // Statistics that are not those of the start.
  whole->fit(images, first_samples(12), {}, {}, Key(9));
  const ParameterSet weights = weights_of(*whole);
  EXPECT_EQ(client->feature_shape(), (std::vector<int64_t>{16, 8, 8}));
  EXPECT_TRUE(whole->feature_shape().empty());
  ParameterSet mine = weights_of(*client);
  EXPECT_EQ(client->extractor_tensors().size(), 6U);
  for (const size_t i : client->extractor_tensors()) {
    const ParameterInfo& tensor = client->layout()->tensors()[i];
    std::ranges::copy(weights.values(tensor.name), mine.values(tensor).begin());
  }
  client->load(mine);
  std::vector<float> features(12 * 1024);
  client->predict(images, first_samples(12), nullptr, Key(0), features, {});

  data::Dataset maps;
  maps.name = "features";
  maps.kind = data::Kind::kFloat;
  maps.sample_shape = client->feature_shape();
  maps.num_classes = images.num_classes;
  maps.labels = images.labels;
  maps.fetch = [&](uint32_t sample, std::span<float> out) {
    std::copy_n(features.begin() + sample * 1024, 1024, out.begin());
  };
  maps.validate();
  const auto server = trainer_for("resnet55-server", maps);
  ParameterSet theirs = weights_of(*server);
  for (const ParameterInfo& tensor : server->layout()->tensors())
    std::ranges::copy(weights.values(tensor.name), theirs.values(tensor).begin());
  server->load(theirs);
  std::vector<float> expected(48), logits(48);
  whole->predict(images, first_samples(12), nullptr, Key(0), {}, expected);
  server->predict(maps, first_samples(12), nullptr, Key(0), {}, logits);
  for (size_t i = 0; i < 48; ++i) EXPECT_NEAR(logits[i], expected[i], 1e-4);
  EXPECT_GT(*std::ranges::max_element(expected) - *std::ranges::min_element(expected), 0.1);
  EXPECT_EQ(whole->evaluate(images, first_samples(12)).correct,
            server->evaluate(maps, first_samples(12)).correct);
  EXPECT_THAT(error_of([&] {
                server->predict(maps, first_samples(1), nullptr, Key(0),
                                std::span(features).first(1024), {});
              }),
              HasSubstr("names no feature map"));
}

TEST(FeatureMap, PredictionDrawsTheAugmentationOfTheKey) {
  const data::Dataset images = block_images({1, 8, 8}, 6, 3);
  const auto client = trainer_for("small-client", images);
  EXPECT_EQ(client->feature_shape(), (std::vector<int64_t>{16, 4, 4}));
  const data::Augmentation crop{.crop_padding = 2};
  const auto features = [&](const data::Augmentation* augmentation, uint64_t key) {
    std::vector<float> out(6 * 256), logits(18);
    client->predict(images, first_samples(6), augmentation, Key(key), out, logits);
    return out;
  };
  EXPECT_EQ(features(&crop, 1), features(&crop, 1));
  EXPECT_NE(features(&crop, 1), features(&crop, 2));
  EXPECT_NE(features(&crop, 1), features(nullptr, 1));
  EXPECT_EQ(features(nullptr, 1), features(nullptr, 2));
}

TEST(FeatureMap, ChannelsBelongToNoUnitGroup) {
  DataSpec data;
  data.sample_shape = {3, 16, 16};
  data.num_classes = 10;
  ModelOptions options;
  options.name = "resnet8-client";
  const auto client = build_graph(options, data);
  for (const ParameterInfo& tensor : client->layout->tensors()) {
    if (tensor.name.starts_with("conv1") || tensor.name.starts_with("bn1")) {
      EXPECT_TRUE(tensor.units.empty()) << tensor.name;
    }
  }
  // Both blocks' middles and what they add up to.
  EXPECT_EQ(client->layout->group_sizes(), (std::vector<int64_t>{16, 16, 64, 16, 16}));
  const std::vector<int64_t> fewer = {8, 4, 32, 16, 5};
  const Graph narrower = narrow(*client, fewer);
  EXPECT_EQ(narrower.features, client->features);
  EXPECT_EQ(narrower.nodes[static_cast<size_t>(narrower.features)].out, (Shape{16, 16, 16}));

  options.name = "resnet55-server";
  data.sample_shape = {16, 16, 16};
  const auto server = build_graph(options, data);
  const ParameterInfo& first = *server->layout->find("layer1.0.conv1.weight");
  ASSERT_EQ(first.units.size(), 1U);
  EXPECT_EQ(first.units[0].axis, 0);
  // The net in one piece is not cut: its first layer has units.
  options.name = "resnet56-gkt";
  data.sample_shape = {3, 16, 16};
  EXPECT_EQ(build_graph(options, data)->layout->find("conv1.weight")->units.size(), 1U);
}

}  // namespace
}  // namespace espalier::models

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "espalier/base/file.h"
#include "espalier/base/test_error.h"
#include "espalier/models/models.h"
#include "espalier/nn/graph_net.h"
#include "espalier/nn/kernels.h"
#include "espalier/nn/optimizer.h"
#include "espalier/params/safetensors.h"
#include "espalier/script/script_net.h"
#include "espalier/torch/torch_net.h"

// Against numbers of PyTorch (tests/reference/train/make_reference.py), and PyTorch against models
// that we write.
namespace espalier::script {

using namespace nn;
namespace {

Json reference(const std::string& name) {
  return Json::parse(read_text_file(std::filesystem::path(ESPALIER_TRAIN_REFERENCE) / name));
}

StepOptions options_of(const std::string& name) {
  StepOptions options;
  options.lr = 0.1;
  if (name == "sgd_decay") options.weight_decay = 0.05;
  if (name == "momentum" || name == "nesterov") {
    options.momentum = 0.9;
    options.weight_decay = 0.05;
    options.nesterov = name == "nesterov";
  }
  if (name == "clipped") {
    options.momentum = 0.5;
    options.clip_norm = 1.5;
  }
  if (name.starts_with("a")) {
    options.lr = 0.01;
    options.optimizer = name == "adamw" ? "adamw" : "adam";
    options.amsgrad = name == "amsgrad";
    options.weight_decay = name == "amsgrad" ? 0 : 0.1;
  }
  if (name == "adam") {
    options.beta1 = 0.8;
    options.beta2 = 0.95;
    options.epsilon = 1e-6;
  }
  return options;
}

TEST(Reference, OptimizersEqualPyTorch) {
  const Json file = reference("optimizers.json");
  ASSERT_EQ(file["cases"].size(), 8U);
  for (const auto& [name, expected] : file["cases"].items()) {
    Optimizer optimizer;
    const StepOptions options = options_of(name);
    // Two segments with an untouched value between them, twice over: a start must forget what was
    // before.
    for (int repetition = 0; repetition < 2; ++repetition) {
      std::vector<float> w = file["start"].get<std::vector<float>>();
      const size_t size = w.size();
      w.insert(w.begin() + 3, 77.0f);
      const std::vector<Segment> segments = {{0, 3}, {4, size + 1}};
      optimizer.start(options, w.size());
      for (const Json& step : file["gradients"]) {
        std::vector<float> g = step.get<std::vector<float>>();
        g.insert(g.begin() + 3, 55.0f);
        if (options.clip_norm > 0) clip_norm(g, segments, options.clip_norm);
        optimizer.step(w, g, segments);
      }
      EXPECT_EQ(w[3], 77.0f);
      w.erase(w.begin() + 3);
      for (size_t i = 0; i < size; ++i) {
        EXPECT_NEAR(w[i], expected[i].get<double>(),
                    2e-6 * std::max(1.0, std::abs(expected[i].get<double>())))
            << name << " " << i;
      }
    }
  }
}

TEST(Reference, TorchScriptModuleTrainsAsPyTorchDoes) {
  const Json file = reference("scripted.json");
  ModelOptions options;
  options.file = (std::filesystem::path(ESPALIER_TRAIN_REFERENCE) / "scripted.pt").string();
  DataSpec data;
  data.sample_shape = {1, 8, 8};
  data.num_classes = 5;
  const auto net = make_script_net(options, data, "cpu");
  ParameterSet weights(net->layout()), gradients(net->layout());
  net->initialize(Key(1), weights);
  EXPECT_EQ(net->layout()->num_trainable(), 4 * 9 + 4 + 8 + 144 * 5 + 5);
  EXPECT_EQ(net->layout()->find("norm.running_var")->role, Role::kStatistic);
  EXPECT_EQ(net->layout()->find("norm.num_batches_tracked")->role, Role::kCounter);
  EXPECT_EQ(net->layout()->find("norm.weight")->role, Role::kNorm);
  EXPECT_EQ(net->layout()->find("head.0.bias")->role, Role::kBias);
  EXPECT_EQ(net->macs_per_sample(), 36U * 4 * 9 + 144 * 5);
  const auto values = file["values"].get<std::vector<float>>();
  const auto labels = file["labels"].get<std::vector<int64_t>>();
  const Batch batch{.size = 3, .values = values, .tokens = {}, .labels = labels};
  net->evaluate(batch, weights.values());
  for (size_t i = 0; i < 15; ++i)
    EXPECT_NEAR(net->logits()[i], file["logits"][i / 5][i % 5].get<double>(), 1e-5);
  const BatchSums sums = net->train(batch, weights.values(), gradients.values(), nullptr);
  EXPECT_NEAR(sums.loss / 3, file["loss"].get<double>(), 1e-5);
  EXPECT_EQ(sums.macs, 3U * (2 * 36 * 4 * 9 + 3 * 144 * 5))
      << "the convolution reads the samples: no gradient of its input";
  for (const auto& [name, norm] : file["norms"].items()) {
    EXPECT_NEAR(std::sqrt(squared_norm(gradients.values(name))), norm.get<double>(), 1e-4) << name;
  }
  for (size_t c = 0; c < 4; ++c)
    EXPECT_NEAR(weights.values("norm.running_mean")[c], file["running_mean"][c].get<double>(),
                1e-6);
  EXPECT_EQ(weights.values("norm.num_batches_tracked")[0], 1.0f);
}

TEST(Reference, TorchScriptExplainsBadFiles) {
  ModelOptions options;
  DataSpec data;
  data.sample_shape = {1, 8, 8};
  data.num_classes = 50;
  const auto message = [&] { return error_of([&] { make_script_net(options, data, "cpu"); }); };
  EXPECT_THAT(message(), testing::HasSubstr("needs model.file"));
  options.file = "/nowhere/model.pt";
  EXPECT_THAT(message(), testing::HasSubstr("no such file"));
  options.file = (std::filesystem::path(ESPALIER_TRAIN_REFERENCE) / "scripted.json").string();
  EXPECT_THAT(message(), testing::HasSubstr("is no archive of TorchScript"));
  options.file = (std::filesystem::path(ESPALIER_TRAIN_REFERENCE) / "scripted.pt").string();
  EXPECT_THAT(message(), testing::HasSubstr("[batch, 50] logits, got [1, 5]"));
}

#ifdef ESPALIER_TORCH_PYTHON
void write_case(const std::filesystem::path& folder, const std::string& name, Net& net,
                const Json& x, const Batch& batch, std::vector<int64_t> shape) {
  ParameterSet weights(net.layout());
  net.initialize(Key(9), weights);
  for (const ParameterInfo& tensor : net.layout()->tensors()) {
    if (tensor.role != Role::kStatistic) continue;
    // Small, so that the signal does not fade from layer to layer.
    for (float& value : weights.values(tensor)) value = 0.04f + 0.01f * value;
  }
  net.evaluate(batch, weights.values());
  const Json file = {{"x", x},
                     {"shape", shape},
                     {"logits", std::vector<float>(net.logits().begin(), net.logits().end())}};
  write_text_file_atomic(folder / (name + ".json"), file.dump());
  write_file_atomic(folder / (name + ".safetensors"), write_safetensors(weights, {}));
}

TEST(Reference, PyTorchGivesTheSameLogitsFromOurFiles) {
  const std::filesystem::path folder =
      std::filesystem::path(testing::TempDir()) / "espalier_logits";
  make_folder(folder);
  const std::vector<int64_t> labels = {0, 1};
  for (const std::string name : {"cnn", "resnet8"}) {
    ModelOptions options;
    options.name = name;
    DataSpec data;
    data.sample_shape =
        name == "cnn" ? std::vector<int64_t>{1, 28, 28} : std::vector<int64_t>{3, 32, 32};
    data.num_classes = 10;
    const auto channels = static_cast<size_t>(data.sample_shape[0]),
               side = static_cast<size_t>(data.sample_shape[1]);
    // PyTorch's order for the script, channels-last for the net.
    std::vector<float> planar(2 * channels * side * side), values(planar.size());
    Stream stream(Key(5));
    for (float& value : planar) value = static_cast<float>(stream.normal());
    unflatten(planar.data(), 2, side * side, channels, values.data());
    GraphNet net(std::move(*build_graph(options, data)), Type::kFloat);
    std::vector<int64_t> shape = data.sample_shape;
    shape.insert(shape.begin(), 2);
    write_case(folder, name, net, planar,
               {.size = 2, .values = values, .tokens = {}, .labels = labels}, shape);
  }
  std::vector<int64_t> tokens;
  for (int i = 0; i < 24; ++i) tokens.push_back((i * 7) % 20);
  ModelOptions options;
  options.name = "lstm";
  GraphNet lstm(std::move(*build_graph(options, {data::Kind::kTokens, {12}, 20, 20})),
                Type::kFloat);
  write_case(folder, "lstm", lstm, tokens,
             {.size = 2, .values = {}, .tokens = tokens, .labels = labels}, {2, 12});
  const std::string command = concat(ESPALIER_TORCH_PYTHON, " ", ESPALIER_TRAIN_REFERENCE,
                                     "/check_logits.py ", folder.string());
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  std::filesystem::remove_all(folder);
}
#else
TEST(Reference, PyTorchGivesTheSameLogitsFromOurFiles) {
  GTEST_SKIP() << "no Python with torch was found by CMake";
}
#endif

}  // namespace
}  // namespace espalier::script

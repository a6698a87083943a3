#include "espalier/script/script_units.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/models/make_trainer.h"
#include "espalier/nn/net.h"
#include "espalier/script/script_net.h"
#include "espalier/train/test_data.h"

namespace espalier::script {

using namespace nn;
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// A module on disk: tensors with numbers of their own, and a forward in TorchScript.
class ScriptFile {
 public:
  explicit ScriptFile(std::vector<int64_t> sample_shape = {1, 8, 8}) : module_("net") {
    data_.sample_shape = std::move(sample_shape);
    data_.num_classes = 5;
    options_.name = "torchscript";
    options_.file =
        (std::filesystem::path(testing::TempDir()) /
         concat("units_", testing::UnitTest::GetInstance()->current_test_info()->name(), ".pt"))
            .string();
  }
  ~ScriptFile() { std::filesystem::remove(options_.file); }

  ScriptFile& parameter(const std::string& name, std::vector<int64_t> shape) {
    module_.register_parameter(name, numbers(shape).requires_grad_(true), false);
    return *this;
  }
  // "conv_w" and "conv_b"
  ScriptFile& layer(const std::string& name, const std::vector<int64_t>& shape) {
    return parameter(name + "_w", shape).parameter(name + "_b", {shape[0]});
  }
  ScriptFile& norm(const std::string& name, int64_t channels) {
    parameter(name + "_w", {channels}).parameter(name + "_b", {channels});
    module_.register_buffer(name + "_mean", numbers({channels}));
    module_.register_buffer(name + "_var", numbers({channels}).abs() + 0.5);
    return *this;
  }
  ScriptFile& forward(const std::string& body) {
    module_.define("def forward(self, x):\n" + body);
    module_.save(options_.file);
    return *this;
  }

  const ModelOptions& options() const { return options_; }
  const DataSpec& data() const { return data_; }
  std::unique_ptr<Net> net(std::vector<int64_t> units = {}) const {
    return make_script_net(options_, data_, "cpu", units);
  }
  std::vector<std::string> notes() const { return script_unit_notes(options_, data_); }

 private:
  at::Tensor numbers(const std::vector<int64_t>& shape) {
    at::Tensor tensor = at::zeros(shape);
    for (int64_t i = 0; i < tensor.numel(); ++i)
      tensor.data_ptr<float>()[i] = static_cast<float>(0.2 * stream_.normal());
    return tensor;
  }

  Stream stream_{Key(3)};
  ::torch::jit::Module module_;
  ModelOptions options_;
  DataSpec data_;
};

std::vector<std::string> group_texts(const Net& net) {
  std::vector<std::string> texts;
  for (const UnitGroup& group : net.layout()->groups())
    texts.push_back(concat(group.name, " ", group.size));
  return texts;
}

std::vector<AxisUnits> units_of(const Net& net, const std::string& tensor) {
  return net.layout()->find(tensor)->units;
}

// One training step of the narrowed module, whose layout is that of narrow_layout.
void expect_trains(const ScriptFile& file, const std::vector<int64_t>& units) {
  const auto full = file.net(), net = file.net(units);
  EXPECT_EQ(*net->layout(), *narrow_layout(*full->layout(), units));
  EXPECT_LT(net->layout()->size(), full->layout()->size());
  EXPECT_LT(net->macs_per_sample(), full->macs_per_sample());
  ParameterSet weights(net->layout()), gradients(net->layout());
  net->initialize(Key(1), weights);
  size_t size = 4;
  for (const int64_t extent : file.data().sample_shape) size *= static_cast<size_t>(extent);
  std::vector<float> values;
  Stream stream(Key(2));
  for (size_t i = 0; i < size; ++i) values.push_back(static_cast<float>(stream.normal()));
  const std::vector<int64_t> labels = {0, 1, 2, 3};
  const Batch batch{.size = 4, .values = values, .tokens = {}, .labels = labels};
  const double before = net->evaluate(batch, weights.values()).loss;
  for (int step = 0; step < 20; ++step) {
    net->train(batch, weights.values(), gradients.values(), nullptr);
    EXPECT_GT(squared_norm(gradients.values()), 0);
    add_scaled(weights.values(), -0.05f, gradients.values());
  }
  EXPECT_LT(net->evaluate(batch, weights.values()).loss, before);
}

TEST(ScriptUnits, MlpOfFunctions) {
  ScriptFile file;
  file.layer("fc1", {12, 64}).layer("fc2", {7, 12}).layer("fc3", {5, 7});
  file.forward(
      "    x = torch.relu(torch.linear(torch.flatten(x, 1), self.fc1_w, self.fc1_b))\n"
      "    x = torch.tanh(torch.addmm(self.fc2_b, x, self.fc2_w.t()))\n"
      "    return torch.matmul(x, torch.transpose(self.fc3_w, 0, 1)) + self.fc3_b\n");
  const auto net = file.net();
  EXPECT_THAT(file.notes(), IsEmpty());
  EXPECT_THAT(group_texts(*net), ElementsAre("fc1_w 12", "fc2_w 7"));
  EXPECT_THAT(units_of(*net, "fc1_w"), ElementsAre(AxisUnits{.axis = 0, .group = 0}));
  EXPECT_THAT(units_of(*net, "fc1_b"), ElementsAre(AxisUnits{.axis = 0, .group = 0}));
  EXPECT_THAT(units_of(*net, "fc2_w"),
              ElementsAre(AxisUnits{.axis = 0, .group = 1}, AxisUnits{.axis = 1, .group = 0}));
  EXPECT_THAT(units_of(*net, "fc3_w"), ElementsAre(AxisUnits{.axis = 1, .group = 1}));
  EXPECT_THAT(units_of(*net, "fc3_b"), IsEmpty());
  expect_trains(file, {5, 3});
}

TEST(ScriptUnits, NarrowedModuleStartsWithTheLeadingUnits) {
  ScriptFile file;
  file.layer("fc1", {12, 64}).layer("fc2", {5, 12});
  file.forward(
      "    x = torch.sigmoid(torch.linear(x.view(-1, 64), self.fc1_w, self.fc1_b))\n"
      "    return torch.linear(x, self.fc2_w, self.fc2_b)\n");
  const auto full = file.net(), net = file.net({5});
  ParameterSet all(full->layout()), some(net->layout());
  full->initialize(Key(1), all);
  net->initialize(Key(1), some);
  for (size_t i = 0; i < 5 * 64; ++i) EXPECT_EQ(some.values("fc1_w")[i], all.values("fc1_w")[i]);
  for (size_t i = 0; i < 25; ++i)
    EXPECT_EQ(some.values("fc2_w")[i], all.values("fc2_w")[i / 5 * 12 + i % 5]);
  EXPECT_EQ(net->macs_per_sample(), 5U * 64 + 5 * 5);
  EXPECT_THROW(file.net({13}), Error);
  EXPECT_THROW(file.net({5, 5}), Error);
}

constexpr const char* kConv = "torch.conv2d(x, self.conv1_w, self.conv1_b, [1, 1], [1, 1])";

TEST(ScriptUnits, ConvolutionPoolFlatten) {
  ScriptFile file;
  file.layer("conv1", {6, 1, 3, 3}).layer("conv2", {8, 6, 3, 3}).norm("norm", 8);
  file.layer("fc", {5, 8 * 16});
  file.forward(concat(
      "    x = torch.relu(", kConv, ")\n",
      "    x = torch.conv2d(x, self.conv2_w, self.conv2_b, [1, 1], [1, 1])\n",
      "    x = torch.batch_norm(x, self.norm_w, self.norm_b, self.norm_mean, self.norm_var, False, "
      "0.1, 1e-5, False)\n",
      "    x = torch.max_pool2d(torch.relu_(x), [2, 2])\n",
      "    return torch.linear(x.reshape(x.size(0), -1), self.fc_w, self.fc_b)\n"));
  const auto net = file.net();
  EXPECT_THAT(file.notes(), IsEmpty());
  EXPECT_THAT(group_texts(*net), ElementsAre("conv1_w 6", "conv2_w 8"));
  EXPECT_THAT(units_of(*net, "norm_var"), ElementsAre(AxisUnits{.axis = 0, .group = 1}));
  EXPECT_THAT(units_of(*net, "fc_w"), ElementsAre(AxisUnits{.axis = 1, .group = 1, .repeat = 16}));
  expect_trains(file, {4, 3});
}

TEST(ScriptUnits, ResidualStreamIsOneGroup) {
  ScriptFile file;
  file.layer("conv1", {6, 1, 3, 3}).layer("conv2", {4, 6, 3, 3}).layer("conv3", {6, 4, 3, 3});
  file.layer("fc", {5, 6});
  file.forward(
      concat("    x = torch.relu(", kConv, ")\n",
             "    y = torch.relu(torch.conv2d(x, self.conv2_w, self.conv2_b, [1, 1], [1, 1]))\n"
             "    x = x + torch.conv2d(y, self.conv3_w, self.conv3_b, [1, 1], [1, 1])\n"
             "    return torch.linear(torch.mean(x, [2, 3]), self.fc_w, self.fc_b)\n"));
  const auto net = file.net();
  EXPECT_THAT(file.notes(), IsEmpty());
  EXPECT_THAT(group_texts(*net), ElementsAre("conv1_w 6", "conv2_w 4"));
  EXPECT_THAT(units_of(*net, "conv3_w"),
              ElementsAre(AxisUnits{.axis = 0, .group = 0}, AxisUnits{.axis = 1, .group = 1}));
  expect_trains(file, {3, 2});
}

TEST(ScriptUnits, ConcatenatedPartsAreGroupsOfTheirOwn) {
  ScriptFile file;
  file.layer("conv1", {6, 1, 3, 3}).layer("conv2", {4, 1, 1, 1}).layer("fc", {5, 16});
  file.forward(concat("    a = torch.relu(", kConv, ")\n",
                      "    b = torch.conv2d(x, self.conv2_w, self.conv2_b)\n"
                      "    x = torch.mean(torch.cat([a, b, a], 1), [2, 3])\n"
                      "    return torch.linear(x, self.fc_w, self.fc_b)\n"));
  const auto net = file.net();
  EXPECT_THAT(file.notes(), IsEmpty());
  EXPECT_THAT(group_texts(*net), ElementsAre("conv1_w 6", "conv2_w 4"));
  EXPECT_THAT(units_of(*net, "fc_w"), ElementsAre(AxisUnits{.axis = 1, .group = 0},
                                                  AxisUnits{.axis = 1, .group = 1, .offset = 6},
                                                  AxisUnits{.axis = 1, .group = 0, .offset = 10}));
  expect_trains(file, {2, 3});
}

TEST(ScriptUnits, GroupedConvolutionStaysWhole) {
  ScriptFile file;
  file.layer("conv1", {6, 1, 3, 3}).layer("conv2", {8, 3, 3, 3}).layer("conv3", {4, 8, 1, 1});
  file.layer("fc", {5, 4});
  file.forward(concat("    x = torch.relu(", kConv, ")\n",
                      "    x = torch.conv2d(x, self.conv2_w, self.conv2_b, [1, 1], [1, 1], [1, 1], "
                      "2)\n"
                      "    x = torch.conv2d(torch.relu(x), self.conv3_w, self.conv3_b)\n"
                      "    return torch.linear(torch.mean(x, [2, 3]), self.fc_w, self.fc_b)\n"));
  const auto net = file.net();
  EXPECT_THAT(group_texts(*net), ElementsAre("conv3_w 4"));
  EXPECT_THAT(file.notes(),
              ElementsAre("conv1_w, conv2_w: all units stay; a convolution in 2 groups is not "
                          "analysed"));
  expect_trains(file, {2});
}

TEST(ScriptUnits, UnknownOperatorAndNormOverChannelsStayWhole) {
  ScriptFile file;
  file.layer("fc1", {12, 64}).layer("fc2", {8, 12}).layer("fc3", {6, 8}).layer("fc4", {5, 6});
  file.parameter("norm_w", {8}).parameter("norm_b", {8});
  file.forward(
      "    x = torch.cumsum(torch.linear(x.flatten(1), self.fc1_w, self.fc1_b), 1)\n"
      "    x = torch.linear(x, self.fc2_w, self.fc2_b)\n"
      "    x = torch.relu(torch.layer_norm(x, [8], self.norm_w, self.norm_b))\n"
      "    x = torch.relu(torch.linear(x, self.fc3_w, self.fc3_b))\n"
      "    return torch.linear(x, self.fc4_w, self.fc4_b)\n");
  EXPECT_THAT(group_texts(*file.net()), ElementsAre("fc3_w 6"));
  EXPECT_THAT(file.notes(),
              ElementsAre("fc1_w: all units stay; operator aten::cumsum is not analysed",
                          "fc2_w: all units stay; aten::layer_norm averages over them"));
}

// The operators allow it, the numbers do not.
TEST(ScriptUnits, CheckFindsHardCodedSizes) {
  ScriptFile file;
  file.layer("conv1", {6, 1, 3, 3}).layer("conv2", {8, 6, 3, 3});
  file.layer("fc1", {12, 8 * 64}).layer("fc2", {5, 12});
  file.forward(
      concat("    x = torch.relu(", kConv, ")\n",
             "    x = torch.relu(torch.conv2d(x, self.conv2_w, self.conv2_b, [1, 1], [1, 1]))\n"
             "    x = torch.relu(torch.linear(x.view(-1, 512), self.fc1_w, self.fc1_b))\n"
             "    return torch.linear(x, self.fc2_w, self.fc2_b)\n"));
  EXPECT_THAT(group_texts(*file.net()), ElementsAre("conv1_w 6", "fc1_w 12"));
  const auto notes = file.notes();
  ASSERT_EQ(notes.size(), 1U);
  EXPECT_THAT(notes[0], HasSubstr("conv2_w: all units stay; the module does not run with fewer"));
  expect_trains(file, {3, 4});
}

TEST(ScriptUnits, CheckFindsUnitsThatAreCounted) {
  ScriptFile file;
  file.layer("fc1", {12, 64}).layer("fc2", {6, 12}).layer("fc3", {5, 6});
  file.forward(
      "    x = torch.relu(torch.linear(x.flatten(1), self.fc1_w, self.fc1_b))\n"
      "    x = torch.relu(torch.linear(x / x.size(1), self.fc2_w, self.fc2_b))\n"
      "    return torch.linear(x, self.fc3_w, self.fc3_b)\n");
  EXPECT_THAT(group_texts(*file.net()), ElementsAre("fc2_w 6"));
  EXPECT_THAT(file.notes(),
              ElementsAre("fc1_w: all units stay; dropped ones still change the logits"));
}

TEST(ScriptUnits, LoopsListsAndBranches) {
  ScriptFile file;
  file.layer("fc1", {12, 64}).layer("fc2", {12, 12}).layer("fc3", {5, 12});
  file.forward(
      "    x = torch.relu(torch.linear(x.flatten(1), self.fc1_w, self.fc1_b))\n"
      "    parts = [x]\n"
      "    for i in range(3):\n"
      "      x = torch.linear(parts[-1], self.fc2_w, self.fc2_b)\n"
      "      if i < 2:\n"
      "        x = torch.relu(x)\n"
      "      parts.append(x)\n"
      "    return torch.linear(parts[-1], self.fc3_w, self.fc3_b)\n");
  // The same layer again and again ties its output to its input.
  EXPECT_THAT(file.notes(), IsEmpty());
  EXPECT_THAT(group_texts(*file.net()), ElementsAre("fc1_w 12"));
  expect_trains(file, {5});
}

TEST(ScriptUnits, ModuleWithoutParametersIsExplained) {
  ScriptFile file;
  file.forward("    return torch.flatten(x, 1)\n");
  try {
    file.net();
    FAIL() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("no parameters to train"));
  }
}

TEST(ScriptUnits, OtherModelsHaveNoNotes) {
  EXPECT_THAT(script_unit_notes({}, {.sample_shape = {1, 28, 28}, .num_classes = 10}), IsEmpty());
}

#ifdef ESPALIER_TORCH_PYTHON
TEST(ScriptUnits, ModulesMadeByPyTorch) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "script_units";
  make_folder(folder);
  const std::string command = concat(ESPALIER_TORCH_PYTHON, " ", ESPALIER_TRAIN_REFERENCE,
                                     "/make_scripts.py ", folder.string());
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  struct Case {
    std::string name;
    std::vector<std::string> groups;
    std::vector<std::string> notes;
  };
  const Case cases[] = {
      {"sequential", {"0 6", "4 8", "8 10"}, {}},
      {"functional", {"conv 6", "fc1 12"}, {}},
      {"resnet", {"stem.0 8", "blocks.0.conv1 6", "blocks.1.conv1 12", "blocks.1.conv2 10"}, {}},
      {"resnet_traced",
       {"stem.0 8", "blocks.0.conv1 6", "blocks.1.conv1 12", "blocks.1.conv2 10"},
       {}},
      {"recurrent",
       {"head 8"},
       {"embed, lstm: all units stay; operator aten::lstm is not analysed"}},
      {"depthwise", {"3 7"}, {"0, 1: all units stay; a convolution in 6 groups is not analysed"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    ModelOptions options;
    options.name = "torchscript";
    options.file = (folder / (c.name + ".pt")).string();
    const DataSpec data{.sample_shape = {1, 8, 8}, .num_classes = 5};
    EXPECT_EQ(script_unit_notes(options, data), c.notes);
    const auto net = make_script_net(options, data, "cpu");
    EXPECT_EQ(group_texts(*net), c.groups);
    std::vector<int64_t> half;
    for (const int64_t size : net->layout()->group_sizes()) half.push_back(size / 2);
    const auto narrowed = make_script_net(options, data, "cpu", half);
    EXPECT_EQ(*narrowed->layout(), *narrow_layout(*net->layout(), half));
    ParameterSet weights(narrowed->layout()), gradients(narrowed->layout());
    narrowed->initialize(Key(1), weights);
    std::vector<float> values(2 * 64);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 11) / 11;
    const std::vector<int64_t> labels = {1, 4};
    narrowed->train({.size = 2, .values = values, .tokens = {}, .labels = labels}, weights.values(),
                    gradients.values(), nullptr);
    for (const ParameterInfo& tensor : narrowed->layout()->tensors()) {
      // What a normalization or a silent branch follows has no gradient of its own.
      if (tensor.role == Role::kWeight && c.name != "resnet" && c.name != "resnet_traced") {
        EXPECT_GT(squared_norm(gradients.values(tensor)), 0) << tensor.name;
      }
    }
    EXPECT_GT(squared_norm(gradients.values()), 0);
  }
  std::filesystem::remove_all(folder);
}
#else
TEST(ScriptUnits, ModulesMadeByPyTorch) {
  GTEST_SKIP() << "no Python with torch was found by CMake";
}
#endif

// A module that returns (features, logits) can be cut in two; the other half is any module that
// takes the features.
TEST(ScriptPair, ClientNamesItsFeaturesAndServerReadsThem) {
  ScriptFile file;
  file.layer("conv", {4, 1, 3, 3}).norm("norm", 4).layer("mid", {6, 4 * 64}).layer("fc", {5, 6});
  file.forward(
      "    f = torch.relu(torch.batch_norm(torch.conv2d(x, self.conv_w, self.conv_b, [1, 1], [1, "
      "1]),\n"
      "                   self.norm_w, self.norm_b, self.norm_mean, self.norm_var, False,\n"
      "                   0.1, 1e-5, False))\n"
      "    y = torch.relu(torch.linear(torch.flatten(f, 1), self.mid_w, self.mid_b))\n"
      "    return f, torch.linear(y, self.fc_w, self.fc_b)\n");
  const auto net = file.net();
  EXPECT_EQ(net->feature_shape(), (std::vector<int64_t>{4, 8, 8}));
  EXPECT_EQ(net->num_logits(), 5U);
  std::vector<std::string> names;
  for (const size_t i : net->extractor_tensors()) names.push_back(net->layout()->tensors()[i].name);
  EXPECT_THAT(names, testing::UnorderedElementsAre("conv_w", "conv_b", "norm_w", "norm_b",
                                                   "norm_mean", "norm_var"));
  // What is sent on stays whole; what the client's classifier hides does not.
  EXPECT_THAT(group_texts(*net), ElementsAre("mid_w 6"));
  EXPECT_THAT(file.notes(), IsEmpty());
  EXPECT_EQ(file.net({3})->feature_shape(), net->feature_shape());
  expect_trains(file, {3});

  const data::Dataset images = block_images({1, 8, 8}, 6, 5);
  const auto client = make_trainer(file.options(), spec_of(images), {});
  ParameterSet weights(client->layout());
  client->initialize(Key(1), weights);
  for (float& shift : weights.values("norm_b")) shift += 0.3f;  // some of it passes the ReLU
  client->load(weights);
  std::vector<float> features(6 * 256), logits(30);
  client->predict(images, first_samples(6), nullptr, Key(1), features, logits);
  std::vector<float> pixels(6 * 64);
  data::gather(images, first_samples(6), nullptr, Key(1), pixels);
  const auto tensor = [&](const std::string& name) {
    return at::from_blob(weights.values(name).data(), weights.layout().find(name)->shape,
                         at::kFloat);
  };
  const at::Tensor x = at::from_blob(pixels.data(), {6, 1, 8, 8}, at::kFloat);
  const at::Tensor maps = at::relu(at::batch_norm(
      at::conv2d(x, tensor("conv_w"), tensor("conv_b"), 1, 1), tensor("norm_w"), tensor("norm_b"),
      tensor("norm_mean"), tensor("norm_var"), false, 0.1, 1e-5, false));
  const at::Tensor found = at::from_blob(features.data(), {6, 4, 8, 8}, at::kFloat);
  EXPECT_LT((found - maps).abs().max().item<float>(), 1e-5);
  EXPECT_GT(maps.std().item<float>(), 0.01);

  ScriptFile other({4, 8, 8});
  other.layer("fc", {5, 4 * 64})
      .forward("    return torch.linear(torch.flatten(x, 1), self.fc_w, self.fc_b)\n");
  data::Dataset sent;
  sent.name = "features";
  sent.kind = data::Kind::kFloat;
  sent.sample_shape = client->feature_shape();
  sent.num_classes = 5;
  sent.labels = images.labels;
  sent.floats.assign(features.begin(), features.end());
  sent.validate();
  const auto server = make_trainer(other.options(), spec_of(sent), {});
  EXPECT_TRUE(server->feature_shape().empty());
  ParameterSet theirs(server->layout());
  server->initialize(Key(1), theirs);
  server->load(theirs);
  server->predict(sent, first_samples(6), nullptr, Key(1), {}, logits);
  const at::Tensor expected =
      at::linear(maps.flatten(1), at::from_blob(theirs.values("fc_w").data(), {5, 256}, at::kFloat),
                 at::from_blob(theirs.values("fc_b").data(), {5}, at::kFloat));
  EXPECT_LT((at::from_blob(logits.data(), {6, 5}, at::kFloat) - expected).abs().max().item<float>(),
            1e-4);
}

TEST(ScriptPair, OtherOutputsAreExplained) {
  ScriptFile file;
  file.layer("fc", {5, 64})
      .forward("    return torch.linear(torch.flatten(x, 1), self.fc_w, self.fc_b), 1\n");
  try {
    file.net();
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(std::string(error.what()),
                HasSubstr("set model.output to what the logits are: \"0\" ([1, 5])"));
  }
}

}  // namespace
}  // namespace espalier::script

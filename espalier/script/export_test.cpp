#include "espalier/script/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/options.h"
#include "espalier/base/test_error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/nn/gates.h"
#include "espalier/train/test_data.h"

namespace espalier::script {
namespace {

using testing::HasSubstr;

constexpr size_t kSamples = 3;

struct Case {
  std::string name;
  ExportedModel model;
  bool half = false;  // half of the units of every group
};

ModelOptions named(const std::string& name) {
  ModelOptions options;
  options.name = name;
  return options;
}

ModelOptions scripted(const std::string& file) {
  ModelOptions options = named("torchscript");
  options.file = file;
  return options;
}

std::vector<Case> cases() {
  const DataSpec grey{data::Kind::kFloat, {1, 28, 28}, 10, 0},
      color{data::Kind::kFloat, {3, 32, 32}, 10, 0}, vectors{data::Kind::kFloat, {20}, 4, 0},
      tokens{data::Kind::kTokens, {12}, 20, 20}, tiny{data::Kind::kFloat, {1, 8, 8}, 5, 0};
  ModelOptions mlp = named("mlp"), all_cnn = named("all-cnn"), group = named("resnet8"),
               vgg = named("vgg11"), lstm = named("lstm"), gated = named("resnet8"),
               gated_cnn = named("cnn"), fbs = named("resnet8"), fbs_cnn = named("all-cnn");
  mlp.hidden = {30, 20};
  all_cnn.width = 0.25;
  group.norm = "group";
  vgg.width = 0.125;
  lstm.lstm_units = 16;
  gated.gates = gated_cnn.gates = "gated";
  fbs.gates = fbs_cnn.gates = "fbs";
  fbs.gate_ratio = fbs_cnn.gate_ratio = 0.4;
  fbs_cnn.width = 0.25;
  fbs_cnn.gate_sigmoid = true;
  const ModelOptions script =
      scripted((std::filesystem::path(ESPALIER_TRAIN_REFERENCE) / "scripted.pt").string());
  return {
      {"mlp", {mlp, grey}},
      {"mlp-vectors", {mlp, vectors}},
      {"mlp-half", {mlp, grey}, true},
      {"cnn", {named("cnn"), grey}},
      {"cnn-half", {named("cnn"), grey}, true},
      {"all-cnn", {all_cnn, color}},
      {"resnet8", {named("resnet8"), color}},
      {"resnet8-half", {named("resnet8"), color}, true},
      {"resnet8-group", {group, color}},
      {"resnet8-group-half", {group, color}, true},
      {"resnet8-client", {named("resnet8-client"), color}},
      {"vgg11", {vgg, color}},
      {"resnet8-gated", {gated, color}},
      {"resnet8-gated-half", {gated, color}, true},
      {"cnn-gated", {gated_cnn, grey}},
      {"resnet8-fbs", {fbs, color}},
      {"all-cnn-fbs", {fbs_cnn, color}},
      {"lstm", {lstm, tokens}},
      {"lstm-half", {lstm, tokens}, true},
      {"scripted", {script, tiny}},
      {"scripted-half", {script, tiny}, true},
  };
}

data::Dataset samples_of(const DataSpec& spec) {
  data::Dataset set;
  set.name = "random";
  set.kind = spec.kind;
  set.sample_shape = spec.sample_shape;
  set.num_classes = spec.num_classes;
  set.vocabulary = spec.vocabulary;
  Stream stream(Key(5));
  for (size_t i = 0; i < kSamples * set.sample_size(); ++i) {
    if (spec.kind == data::Kind::kTokens) {
      set.tokens.push_back(static_cast<int32_t>(stream.below(20)));
    } else {
      set.floats.push_back(static_cast<float>(stream.normal()));
    }
  }
  for (size_t i = 0; i < kSamples; ++i) set.labels.push_back(static_cast<int32_t>(i));
  set.validate();
  return set;
}

std::vector<float> logits_of(Trainer& trainer, const data::Dataset& set) {
  std::vector<float> logits(set.size() * static_cast<size_t>(set.num_classes));
  trainer.predict(set, first_samples(set.size()), nullptr, Key(0), {}, logits);
  return logits;
}

std::unique_ptr<Trainer> trainer_of(const ExportedModel& model) {
  return make_trainer(model.model, model.data, {}, model.units);
}

// Every tensor with values of its own, so that none can be mistaken for another.
ParameterSet random_weights(Trainer& trainer) {
  ParameterSet weights(trainer.layout());
  trainer.initialize(Key(9), weights);
  Stream stream(Key(10));
  for (const ParameterInfo& tensor : trainer.layout()->tensors()) {
    for (float& value : weights.values(tensor)) {
      // Small, so that the signal does not fade from layer to layer.
      if (tensor.role == Role::kStatistic) value = static_cast<float>(0.1 + 0.1 * stream.uniform());
      if (tensor.role == Role::kNorm) value += static_cast<float>(0.2 * stream.normal());
      if (tensor.role == Role::kCounter && tensor.name != nn::kGateRatio) value = 3;
    }
  }
  return weights;
}

class Folder {
 public:
  Folder()
      : path_(std::filesystem::path(testing::TempDir()) /
              concat("export_", testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(path_);
    make_folder(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Writes the model's file and what PyTorch must find in it.
ParameterSet write_case(const std::filesystem::path& folder, Case& c) {
  auto trainer = trainer_of(c.model);
  if (c.half) {
    for (const int64_t size : trainer->layout()->group_sizes())
      c.model.units.push_back((size + 1) / 2);
    trainer = trainer_of(c.model);
  }
  const ParameterSet weights = random_weights(*trainer);
  trainer->load(weights);
  const data::Dataset set = samples_of(c.model.data);
  export_torchscript(c.model, weights, folder / (c.name + ".pt"));
  std::vector<int64_t> shape = c.model.data.sample_shape;
  shape.insert(shape.begin(), kSamples);
  Json tensors = Json::object();
  for (const ParameterInfo& tensor : weights.layout().tensors())
    tensors[tensor.name] = tensor.shape;
  const Json expected = {{"tokens", set.tokens},
                         {"values", set.floats},
                         {"shape", shape},
                         {"logits", logits_of(*trainer, set)},
                         {"tensors", tensors},
                         {"model", c.model.model.name},
                         {"classes", set.num_classes}};
  write_text_file_atomic(folder / (c.name + ".json"), expected.dump());
  return weights;
}

// The file as the model "torchscript" of our own: the same tensors, logits, products and, in
// training mode, the same statistics.
TEST(Export, OurFilesAreTorchScriptModels) {
  const Folder folder;
  for (Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const ParameterSet weights = write_case(folder.path(), c);
    const auto ours = trainer_of(c.model);
    ours->load(weights);
    const ExportedModel again{scripted((folder.path() / (c.name + ".pt")).string()), c.model.data};
    const auto theirs = trainer_of(again);
    ParameterSet values(theirs->layout());
    theirs->initialize(Key(0), values);
    // The share of channels that gates keep is a buffer that forward only reads.
    const ParameterSet& fixed = theirs->fixed().values;
    ASSERT_EQ(
        values.layout().tensors().size() + (fixed.empty() ? 0 : fixed.layout().tensors().size()),
        weights.layout().tensors().size());
    ASSERT_EQ(values.layout().num_trainable(), weights.layout().num_trainable());
    for (const ParameterInfo& tensor : weights.layout().tensors()) {
      const ParameterSet& owner = values.layout().find(tensor.name) != nullptr ? values : fixed;
      const ParameterInfo* found = owner.layout().find(tensor.name);
      ASSERT_NE(found, nullptr) << tensor.name;
      EXPECT_EQ(found->shape, tensor.shape) << tensor.name;
      EXPECT_TRUE(std::ranges::equal(owner.values(*found), weights.values(tensor)));
    }
    theirs->load(values);
    const data::Dataset set = samples_of(c.model.data);
    const std::vector<float> a = logits_of(*ours, set), b = logits_of(*theirs, set);
    float largest = 1;
    for (const float value : a) largest = std::max(largest, std::abs(value));
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5 * largest);
    const ParameterSet x = ours->statistics(set, first_samples(kSamples), kSamples).values;
    const ParameterSet y = theirs->statistics(set, first_samples(kSamples), kSamples).values;
    for (const ParameterInfo& tensor : x.layout().tensors()) {
      const auto p = x.values(tensor), q = y.values(tensor.name);
      for (size_t i = 0; i < p.size(); ++i) ASSERT_NEAR(p[i], q[i], 1e-4) << tensor.name;
    }
  }
}

TEST(Export, SameModelSameBytes) {
  const Folder folder;
  Case c = cases()[6];
  write_case(folder.path(), c);
  const Bytes first = read_file(folder.path() / (c.name + ".pt"));
  write_case(folder.path(), c);
  EXPECT_EQ(first, read_file(folder.path() / (c.name + ".pt")));
}

TEST(Export, ExplainsWhatIsWrong) {
  const Folder folder;
  const ExportedModel model{named("mlp"), {data::Kind::kFloat, {20}, 4, 0}};
  const ParameterSet weights = random_weights(*trainer_of(model));
  ExportedModel other = model;
  other.model.hidden = {5};
  EXPECT_THAT(error_of([&] { export_torchscript(other, weights, folder.path() / "a.pt"); }),
              HasSubstr("expected weights"));
  other = model;
  other.units = {65};
  EXPECT_THAT(error_of([&] { export_torchscript(other, weights, folder.path() / "a.pt"); }),
              HasSubstr("units"));
  other = model;
  other.model.name = "vgg1";
  EXPECT_THAT(error_of([&] { export_torchscript(other, weights, folder.path() / "a.pt"); }),
              HasSubstr("did you mean 'vgg11'"));
  EXPECT_THAT(error_of([&] { export_torchscript(model, weights, folder.path() / "no/a.pt"); }),
              HasSubstr("no/a.pt"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

#ifdef ESPALIER_TORCH_PYTHON
TEST(Export, PyTorchRunsOurFiles) {
  const Folder folder;
  for (Case& c : cases()) write_case(folder.path(), c);
  // From pixels, by what the file itself says about them.
  const data::Dataset images = block_images({1, 28, 28}, 4, 10);
  const ExportedModel cnn{named("cnn"), spec_of(images), {}, images.mean, images.stddev};
  const auto trainer = trainer_of(cnn);
  const ParameterSet weights = random_weights(*trainer);
  trainer->load(weights);
  export_torchscript(cnn, weights, folder.path() / "pixels.pt");
  Json tensors = Json::object();
  for (const ParameterInfo& tensor : weights.layout().tensors())
    tensors[tensor.name] = tensor.shape;
  const Json expected = {
      {"pixels", images.pixels}, {"shape", {4, 28, 28, 1}}, {"logits", logits_of(*trainer, images)},
      {"tensors", tensors},      {"model", "cnn"},          {"classes", 10}};
  write_text_file_atomic(folder.path() / "pixels.json", expected.dump());
  const std::string command = concat(ESPALIER_TORCH_PYTHON, " ", ESPALIER_TRAIN_REFERENCE,
                                     "/check_export.py ", folder.path().string());
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}
#else
TEST(Export, PyTorchRunsOurFiles) { GTEST_SKIP() << "no Python with torch was found by CMake"; }
#endif

}  // namespace
}  // namespace espalier::script

#include "espalier/train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "espalier/base/error.h"
#include "espalier/base/test_error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/process.h"
#include "espalier/nn/graph_net.h"
#include "espalier/train/test_data.h"

namespace espalier::models {
namespace {

using testing::HasSubstr;

std::unique_ptr<Trainer> trainer_for(const std::string& model, const data::Dataset& set,
                                     const std::string& precision = "fp32") {
  ModelOptions options;
  options.name = model;
  return make_trainer(options, spec_of(set), {precision, "cpu"});
}

ParameterSet trained(Trainer& trainer, const data::Dataset& set, const StepOptions& options,
                     size_t samples) {
  ParameterSet weights(trainer.layout());
  trainer.initialize(Key(1), weights);
  trainer.load(weights);
  trainer.fit(set, first_samples(samples), options, {}, Key(2));
  trainer.store(weights);
  return weights;
}

TEST(Trainer, LearnsBlocks) {
  const data::Dataset set = block_images({1, 28, 28}, 100, 10);
  for (const std::string name : {"mlp fp32", "cnn fp32", "cnn bf16"}) {
    if (name == "cnn bf16" && !nn::computes_bf16()) continue;
    const std::string model = name.substr(0, 3);
    const auto trainer = trainer_for(model, set, name.substr(4));
    ParameterSet weights(trainer->layout());
    trainer->initialize(Key(1), weights);
    trainer->load(weights);
    const EvalSums before = trainer->evaluate(set, first_samples(100));
    StepOptions options;
    options.epochs = 5;
    const FitResult fit = trainer->fit(set, first_samples(100), options, {}, Key(2));
    const EvalSums after = trainer->evaluate(set, first_samples(100));
    EXPECT_EQ(fit.steps, 50U);
    EXPECT_EQ(fit.samples, 500U);
    EXPECT_EQ(before.count, 100U);
    EXPECT_LT(after.loss, 0.5 * before.loss) << model;
    EXPECT_GT(after.correct, 90U) << model;
  }
}

TEST(Trainer, DropLastLeavesOutTheLastSmallBatch) {
  const data::Dataset set = block_images({1, 8, 8}, 25, 5);
  StepOptions options;
  options.batch_size = 10;
  options.epochs = 2;
  options.drop_last = true;
  for (const std::string model : {"mlp", "resnet8"}) {
    const auto trainer = trainer_for(model, set);
    ParameterSet weights(trainer->layout());
    trainer->initialize(Key(1), weights);
    trainer->load(weights);
    const FitResult fit = trainer->fit(set, first_samples(25), options, {}, Key(2));
    EXPECT_EQ(fit.steps, 4U);
    EXPECT_EQ(fit.samples, 40U);
    trainer->load(weights);
    EXPECT_EQ(fit.macs, trainer->fit(set, first_samples(20), options, {}, Key(2)).macs);
    EXPECT_THAT(error_of([&] { trainer->fit(set, first_samples(9), options, {}, Key(2)); }),
                HasSubstr("train.drop_last leaves 9 samples without a batch of 10"));
  }
}

TEST(Trainer, ParametersAndMultiplyAccumulates) {
  struct Row {
    std::string model;
    std::vector<int64_t> shape;
    int64_t parameters;
    uint64_t macs;
  };
  // Counted by hand from the layers; ResNet-20's are the paper's 0.27 M and 40.8 M with projection
  // shortcuts.
  const Row rows[] = {{"mlp", {1, 28, 28}, 50890, 50816},
                      {"cnn", {1, 28, 28}, 1663370, 12273152},
                      {"cnn-cifar", {3, 32, 32}, 1626442, 16835200},
                      {"all-cnn", {3, 32, 32}, 1369738, 281174016},
                      {"resnet20", {3, 32, 32}, 272474, 40813184},
                      {"resnet110", {3, 32, 32}, 1730714, 253149824},
                      {"vgg11", {3, 32, 32}, 9231114, 152769536},
                      // FedGKT's tables: 9.62 M, 86.8 M, 167.0 M, 87.2 M and 167.4 M.
                      {"resnet8-client", {3, 32, 32}, 10586, 9618048},
                      {"resnet55-server", {16, 32, 32}, 590858, 86772224},
                      {"resnet109-server", {16, 32, 32}, 1147274, 166988288},
                      {"resnet56-gkt", {3, 32, 32}, 591322, 87214592},
                      {"resnet110-gkt", {3, 32, 32}, 1147738, 167430656},
                      {"small-client", {1, 28, 28}, 5178, 254336},
                      {"small-server", {16, 14, 14}, 165450, 12845696}};
  for (const Row& row : rows) {
    const auto trainer = trainer_for(row.model, block_images(row.shape, 10, 10));
    EXPECT_EQ(trainer->layout()->num_trainable(), row.parameters) << row.model;
    EXPECT_EQ(trainer->macs_per_sample(), row.macs) << row.model;
  }
}

TEST(Trainer, SameBytesInAnyThreadAndAfterOtherWork) {
  const data::Dataset set = block_images({1, 28, 28}, 40, 10);
  StepOptions options;
  const auto first = trainer_for("cnn", set);
  const ParameterSet expected = trained(*first, set, options, 33);
  const auto second = trainer_for("cnn", set);
  trained(*second, set, options, 21);  // another client before, with a smaller last batch
  ParameterSet again;
  std::thread([&] {
    configure_thread();
    again = trained(*second, set, options, 33);
  }).join();
  EXPECT_TRUE(std::ranges::equal(expected.values(), again.values()));
}

TEST(Trainer, SmallerLastBatchAndMaxSteps) {
  const data::Dataset set = block_images({1, 28, 28}, 40, 10);
  const auto trainer = trainer_for("mlp", set);
  ParameterSet weights(trainer->layout());
  trainer->initialize(Key(1), weights);
  trainer->load(weights);
  StepOptions options;
  options.epochs = 2;
  FitResult fit = trainer->fit(set, first_samples(23), options, {}, Key(2));
  EXPECT_EQ(fit.steps, 6U);
  EXPECT_EQ(fit.samples, 46U);
  options.max_steps = 4;
  fit = trainer->fit(set, first_samples(23), options, {}, Key(2));
  EXPECT_EQ(fit.steps, 4U);
  EXPECT_EQ(fit.samples, 33U);
}

TEST(Trainer, HooksSeeFlatBuffersAndDoNotChangeThePlainStep) {
  const data::Dataset set = block_images({1, 28, 28}, 40, 10);
  const auto trainer = trainer_for("cnn", set);
  StepOptions options;
  options.weight_decay = 0.01;
  const ParameterSet plain = trained(*trainer, set, options, 40);
  ParameterSet weights(trainer->layout());
  trainer->initialize(Key(1), weights);
  trainer->load(weights);
  size_t before = 0, after = 0;
  FitHooks hooks;
  hooks.before_step = [&](std::span<const float> w, std::span<float> g) {
    EXPECT_EQ(w.size(), g.size());
    EXPECT_GT(squared_norm(g), 0);
    ++before;
  };
  hooks.after_step = [&](std::span<float>) { ++after; };
  trainer->fit(set, first_samples(40), options, hooks, Key(2));
  trainer->store(weights);
  EXPECT_EQ(before, 4U);
  EXPECT_EQ(after, 4U);
  // The hook takes the unfused road, which rounds differently.
  for (size_t i = 0; i < weights.size(); ++i)
    ASSERT_NEAR(weights.values()[i], plain.values()[i], 1e-5);
}

// Float samples stand channel by channel, images pixel by pixel: the same values must give the same
// loss.
TEST(Trainer, FloatSamplesEqualImages) {
  const data::Dataset images = block_images({3, 12, 10}, 6, 3);
  data::Dataset floats = images;
  floats.kind = data::Kind::kFloat;
  floats.pixels.clear();
  for (size_t i = 0; i < images.size(); ++i) {
    for (size_t c = 0; c < 3; ++c) {
      for (size_t p = 0; p < 120; ++p) {
        const auto pixel = static_cast<float>(images.pixels[(i * 120 + p) * 3 + c]);
        floats.floats.push_back((pixel / 255 - images.mean[c]) / images.stddev[c]);
      }
    }
  }
  floats.mean.clear();
  floats.stddev.clear();
  const auto a = trainer_for("cnn", images), b = trainer_for("cnn", floats);
  ParameterSet weights(a->layout());
  a->initialize(Key(1), weights);
  a->load(weights);
  b->load(weights);
  EXPECT_NEAR(a->evaluate(images, first_samples(6)).loss,
              b->evaluate(floats, first_samples(6)).loss, 1e-4);
}

TEST(Trainer, GradientHookCanStopTraining) {
  const data::Dataset set = block_images({1, 28, 28}, 20, 10);
  const auto trainer = trainer_for("mlp", set);
  ParameterSet weights(trainer->layout()), after(trainer->layout());
  trainer->initialize(Key(1), weights);
  trainer->load(weights);
  FitHooks hooks;
  hooks.before_step = [](std::span<const float>, std::span<float> g) {
    std::fill(g.begin(), g.end(), 0.0f);
  };
  trainer->fit(set, first_samples(20), {}, hooks, Key(2));
  trainer->store(after);
  EXPECT_TRUE(std::ranges::equal(weights.values(), after.values()));
}

TEST(Trainer, ExplainsWhatIsWrong) {
  const data::Dataset set = block_images({1, 28, 28}, 20, 10);
  EXPECT_THAT(error_of([&] { trainer_for("cnm", set); }), HasSubstr("did you mean 'cnn'"));
  EXPECT_THAT(error_of([&] {
                const data::Dataset tiny = block_images({1, 3, 3}, 10, 3);
                trainer_for("cnn", tiny);
              }),
              HasSubstr("does not fit samples of 1×3×3"));
  const auto trainer = trainer_for("mlp", set);
  EXPECT_THAT(error_of([&] {
                trainer->fit(block_images({1, 8, 8}, 10, 10), first_samples(10), {}, {}, Key(1));
              }),
              HasSubstr("expected samples of shape [1, 28, 28]"));
  EXPECT_THAT(error_of([&] { trainer->fit(set, {}, {}, {}, Key(1)); }), HasSubstr("at least one"));
  EXPECT_THAT(error_of([&] {
                ParameterSet weights(trainer->layout());
                trainer->initialize(Key(1), weights);
                trainer->load(weights);
                StepOptions options;
                options.lr = 1e30;
                options.epochs = 3;
                trainer->fit(set, first_samples(20), options, {}, Key(1));
              }),
              HasSubstr("lower train.lr"));
  EXPECT_THAT(error_of([&] {
                make_trainer({}, spec_of(set), {"fp32", "cuda"});
              }),
              HasSubstr("train.device = \"cpu\""));
}

// What the logits say, counted again, for nets of the engine on images, values and tokens.
TEST(Trainer, CountsByClass) {
  const data::Dataset images = block_images({1, 12, 12}, 60, 5);
  data::Dataset text;
  text.name = "text";
  text.kind = data::Kind::kTokens;
  text.sample_shape = {6};
  text.num_classes = text.vocabulary = 9;
  Stream stream(Key(4));
  for (int i = 0; i < 60; ++i) {
    for (int j = 0; j < 6; ++j) text.tokens.push_back(static_cast<int32_t>(stream.below(9)));
    text.labels.push_back(static_cast<int32_t>(stream.below(9)));
  }
  text.validate();
  for (const std::string model : {"mlp", "cnn", "lstm"}) {
    const data::Dataset& set = model == "lstm" ? text : images;
    ModelOptions options;
    options.name = model;
    options.lstm_units = 8;
    options.width = 0.25;
    const auto trainer = make_trainer(options, spec_of(set), {});
    StepOptions steps;
    steps.epochs = 3;
    trained(*trainer, set, steps, 40);
    std::vector<uint32_t> rest = first_samples(60);
    EvalSums sums = trainer->evaluate(set, std::span(rest).first(33));
    rest.erase(rest.begin(), rest.begin() + 33);
    sums += trainer->evaluate(set, rest);
    const auto classes = static_cast<size_t>(set.num_classes);
    std::vector<float> logits(60 * classes);
    trainer->predict(set, first_samples(60), nullptr, Key(0), {}, logits);
    std::vector<ClassCount> expected(classes);
    for (size_t c = 0; c < classes; ++c) expected[c].label = static_cast<int32_t>(c);
    for (size_t i = 0; i < 60; ++i) {
      const auto row = logits.begin() + static_cast<std::ptrdiff_t>(i * classes);
      const auto best = std::max_element(row, row + static_cast<std::ptrdiff_t>(classes)) - row;
      ++expected[static_cast<size_t>(set.labels[i])].count;
      expected[static_cast<size_t>(set.labels[i])].correct += best == set.labels[i] ? 1 : 0;
    }
    std::erase_if(expected, [](const ClassCount& c) { return c.count == 0; });
    EXPECT_EQ(sums.classes, expected) << model;
    uint64_t correct = 0;
    for (const ClassCount& c : sums.classes) correct += c.correct;
    EXPECT_EQ(correct, sums.correct);
  }
}

TEST(Trainer, AugmentsFloatImagesAndRefusesVectors) {
  data::Dataset set = block_images({1, 8, 8}, 40, 4);
  set.kind = data::Kind::kFloat;
  for (const uint8_t pixel : set.pixels) set.floats.push_back(static_cast<float>(pixel) / 255);
  set.pixels.clear();
  set.mean.clear();
  set.stddev.clear();
  set.validate();
  const auto fitted = [](const data::Dataset& data, const StepOptions& options) {
    const auto trainer = trainer_for("mlp", data);
    return trained(*trainer, data, options, 40);
  };
  StepOptions plain, augmented;
  augmented.flip = true;
  augmented.cutout = 3;
  EXPECT_FALSE(std::ranges::equal(fitted(set, plain).values(), fitted(set, augmented).values()));
  set.sample_shape = {64};
  EXPECT_THAT(error_of([&] { fitted(set, augmented); }), HasSubstr("values of shape [64]"));
}

}  // namespace
}  // namespace espalier::models

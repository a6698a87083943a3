#include "espalier/strategy/server_net.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/models/model_options.h"

namespace espalier::strategy {
namespace {

// Samples of four numbers whose class is that of the largest of the first three.
data::Dataset make_data(size_t samples) {
  data::Dataset set;
  set.kind = data::Kind::kFloat;
  set.sample_shape = {4};
  set.num_classes = 3;
  Stream stream{Key(3)};
  for (size_t i = 0; i < samples; ++i) {
    for (int j = 0; j < 4; ++j) set.floats.push_back(static_cast<float>(stream.normal()));
    const auto begin = set.floats.end() - 4;
    set.labels.push_back(static_cast<int32_t>(std::max_element(begin, begin + 3) - begin));
  }
  return set;
}

ServerNet make_net(size_t threads, size_t shards) {
  models::ModelOptions model;
  model.name = "mlp";
  model.hidden = {16};
  train::DataSpec spec{data::Kind::kFloat, {4}, 3, 0};
  return ServerNet({model, spec, "fp32", "cpu", threads, shards}, Key(1));
}

train::StepOptions adam(int64_t batch) {
  train::StepOptions options;
  options.optimizer = "adam";
  options.lr = 0.01;
  options.batch_size = batch;
  return options;
}

std::vector<uint32_t> all_of(const data::Dataset& set) {
  std::vector<uint32_t> all(set.size());
  std::iota(all.begin(), all.end(), uint32_t{0});
  return all;
}

std::vector<float> trained(ServerNet& net, const data::Dataset& set, int64_t batch, int epochs) {
  train::OptimizerState optimizer;
  for (int epoch = 0; epoch < epochs; ++epoch)
    net.fit(set, all_of(set), adam(batch), {}, optimizer, Key(static_cast<uint64_t>(epoch)));
  return {net.weights().values().begin(), net.weights().values().end()};
}

TEST(ServerNet, LearnsAndPredictsWhatItEvaluates) {
  const auto set = make_data(403);
  for (const size_t shards : {1u, 3u}) {
    ServerNet net = make_net(2, shards);
    const auto before = net.evaluate(set, all_of(set));
    trained(net, set, 20, 20);
    const auto after = net.evaluate(set, all_of(set));
    EXPECT_LT(after.loss, 0.4 * before.loss) << shards;
    EXPECT_GT(after.correct, 360u) << shards;
    std::vector<float> logits(set.size() * 3);
    net.predict(set, logits);
    uint64_t correct = 0;
    for (size_t i = 0; i < set.size(); ++i) {
      const auto row = logits.begin() + static_cast<ptrdiff_t>(3 * i);
      correct += std::max_element(row, row + 3) - row == set.labels[i] ? 1 : 0;
    }
    EXPECT_EQ(correct, after.correct);
  }
}

TEST(ServerNet, ThreadsChangeNoBitAndShardsDo) {
  const auto set = make_data(101);
  std::vector<std::vector<float>> results;
  for (const auto& [threads, shards] :
       std::vector<std::pair<size_t, size_t>>{{1, 2}, {2, 2}, {3, 2}, {1, 3}}) {
    ServerNet net = make_net(threads, shards);
    results.push_back(trained(net, set, 16, 3));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
  EXPECT_NE(results[0], results[3]);
}

TEST(ServerNet, ShardsTogetherTakeTheStepOfTheWholeBatch) {
  // One batch of everything without normalization layers: the mean of the parts' gradients is the
  // batch's gradient, up to rounding.
  const auto set = make_data(64);
  ServerNet whole = make_net(1, 1), parts = make_net(2, 4);
  const auto initial = whole.weights();
  train::StepOptions sgd;
  sgd.lr = 0.5;
  sgd.batch_size = 64;
  train::OptimizerState a, b;
  const auto one = whole.fit(set, all_of(set), sgd, {}, a, Key(1));
  const auto other = parts.fit(set, all_of(set), sgd, {}, b, Key(1));
  EXPECT_NEAR(one.loss, other.loss, 1e-6);
  EXPECT_EQ(other.steps, 1u);
  EXPECT_EQ(other.samples, 64u);
  double moved = 0;
  for (size_t i = 0; i < initial.size(); ++i) {
    moved += std::abs(static_cast<double>(whole.weights().values()[i] - initial.values()[i]));
    EXPECT_NEAR(whole.weights().values()[i], parts.weights().values()[i], 1e-6);
  }
  EXPECT_GT(moved, 0.1);
}

TEST(ServerNet, AnUnevenRestIsFilledUp) {
  const auto set = make_data(5);
  ServerNet net = make_net(1, 4);
  train::OptimizerState optimizer;
  const auto result = net.fit(set, all_of(set), adam(4), {}, optimizer, Key(1));
  EXPECT_EQ(result.samples, 8u);
  EXPECT_EQ(result.steps, 2u);
  EXPECT_EQ(optimizer.steps, 2u);
}

TEST(ServerNet, AFailingShardEndsThemAll) {
  auto set = make_data(64);
  set.fetch = [floats = set.floats](uint32_t sample, std::span<float> out) {
    if (sample == 17) fail("test", "sample 17 is lost");
    std::copy_n(floats.begin() + 4 * sample, 4, out.begin());
  };
  set.floats.clear();
  for (const size_t threads : {1u, 2u}) {
    ServerNet net = make_net(threads, 2);
    const auto before = net.weights();
    train::OptimizerState optimizer;
    try {
      net.fit(set, all_of(set), adam(8), {}, optimizer, Key(1));
      FAIL();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("sample 17"), std::string::npos) << error.what();
    }
    EXPECT_TRUE(std::ranges::equal(before.values(), net.weights().values()));
  }
}

}  // namespace
}  // namespace espalier::strategy

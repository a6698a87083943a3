#include "espalier/nn/nested_net.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "espalier/base/error.h"
#include "espalier/base/memory_use.h"
#include "espalier/base/test_error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/process.h"
#include "espalier/models/test_problem.h"
#include "espalier/nn/graph_net.h"
#include "espalier/train/test_data.h"
#ifdef ESPALIER_TORCH  // the reference of some tests
#include "espalier/torch/torch_net.h"
#endif

namespace espalier::models {
namespace {

using testing::HasSubstr;

Graph graph_of(const std::string& model) {
  ModelOptions options;
  options.name = model;
  if (model == "lstm") {
    options.lstm_units = 12;
    return std::move(*build_graph(options, {data::Kind::kTokens, {9}, 10, 10}));
  }
  return graph_of(options, model == "cnn" ? std::vector{1L, 12L, 12L} : std::vector{3L, 16L, 16L});
}

// A model and its narrower forms under one of the engines.
struct Nets {
  std::unique_ptr<Net> whole;
  NarrowNet narrow;
};
Nets nets_of(const std::string& model, bool by_torch) {
  const auto make = [=](Graph graph) -> std::unique_ptr<Net> {
#ifdef ESPALIER_TORCH
    if (by_torch) return torch::make_torch_graph_net(std::move(graph), "cpu");
#else
    static_cast<void>(by_torch);  // the engine is compared with itself, one net at a time
#endif
    return std::make_unique<GraphNet>(std::move(graph), Type::kFloat);
  };
  const auto graph = std::make_shared<const Graph>(graph_of(model));
  return {make(*graph),
          [=](std::span<const int64_t> units) { return make(narrow(*graph, units)); }};
}

std::vector<int64_t> part_of(const ParameterLayout& layout, int64_t divisor) {
  std::vector<int64_t> units = layout.group_sizes();
  for (int64_t& count : units) count = std::max<int64_t>(1, count / divisor);
  return units;
}

CoordinateMap prefix_map(const ParameterLayout& full, const ParameterLayout& small) {
  std::vector<std::vector<uint32_t>> kept;
  for (const int64_t count : small.group_sizes()) {
    kept.emplace_back(static_cast<size_t>(count));
    std::iota(kept.back().begin(), kept.back().end(), 0U);
  }
  return CoordinateMap(full, small, kept);
}

struct NestedProblem {
  std::vector<float> values;
  std::vector<int64_t> tokens, labels = {3, 1, 9, 0, 3, 7};
  Batch batch;
  ParameterSet weights;

  explicit NestedProblem(const Net& net) : weights(net.layout()) {
    net.initialize(Key(3), weights);
    Stream stream(Key(4));
    for (const ParameterInfo& tensor : net.layout()->tensors()) {
      if (tensor.role != Role::kNorm && tensor.role != Role::kStatistic) continue;
      for (float& value : weights.values(tensor))
        value += static_cast<float>(0.2 * stream.uniform());
    }
    const bool conv1 =
        net.layout()->tensors()[0].shape.size() == 4 && net.layout()->tensors()[0].shape[1] == 1;
    const bool text = net.layout()->tensors()[0].role == Role::kEmbedding;
    for (size_t i = 0; i < 6 * (conv1 ? 144U : 768U); ++i)
      values.push_back(static_cast<float>(stream.normal()));
    for (size_t i = 0; i < 54; ++i) tokens.push_back(static_cast<int64_t>(stream.below(10)));
    batch = {.size = 6, .values = values, .tokens = {}, .labels = labels};
    if (text) batch.tokens = tokens;
  }
};

std::vector<float> gathered(const CoordinateMap& map, const ParameterSet& full) {
  std::vector<float> small(map.small_size());
  map.gather(full.values(), small);
  return small;
}

class Nested : public testing::TestWithParam<std::string> {};

TEST_P(Nested, StepAtAWidthIsTheNarrowNetsOwn) {
  const Nets nets = nets_of(GetParam(), false);
  const NestedProblem problem(*nets.whole);
  const auto narrow = nets.narrow(part_of(*nets.whole->layout(), 2));
  const CoordinateMap map = prefix_map(*nets.whole->layout(), *narrow->layout());
  ParameterSet small(narrow->layout()), small_gradient(narrow->layout());
  map.gather(problem.weights.values(), small.values());
  const BatchSums expected =
      narrow->train(problem.batch, small.values(), small_gradient.values(), nullptr);

  NestedNet nested(*nets.whole, nets.narrow);
  SubmodelTraining training;
  ParameterSet weights = problem.weights, gradient(weights.shared_layout());
  // Another width before, whose buffers are used again.
  training.widths = {part_of(*nets.whole->layout(), 4)};
  nested.start(training, {}, Key(1));
  nested.train(problem.batch, weights.values(), gradient.values(), nullptr);
  weights = problem.weights;

  training.widths = {part_of(*nets.whole->layout(), 2)};
  nested.start(training, {}, Key(1));
  EXPECT_FALSE(nested.can_fuse());
  for (float& value : gradient.values()) value = 99;  // left from another step
  const BatchSums sums = nested.train(problem.batch, weights.values(), gradient.values(), nullptr);
  EXPECT_EQ(sums.loss, expected.loss);
  EXPECT_EQ(sums.correct, expected.correct);
  EXPECT_EQ(sums.macs, expected.macs);
  EXPECT_LT(narrow->macs_per_sample(), nets.whole->macs_per_sample());
  // Statistics included: the narrow net moved them in `small`.
  EXPECT_TRUE(std::ranges::equal(gathered(map, weights), small.values()));
  EXPECT_TRUE(std::ranges::equal(gathered(map, gradient), small_gradient.values()));
  // And nothing else changed.
  ParameterSet back = weights, zero = gradient;
  map.scatter(gathered(map, problem.weights), back.values());
  EXPECT_TRUE(std::ranges::equal(back.values(), problem.weights.values()));
  map.scatter(std::vector<float>(map.small_size()), zero.values());
  EXPECT_EQ(squared_norm(zero.values()), 0);
}

TEST_P(Nested, SelfDistillationEqualsLibtorch) {
  const Nets ours = nets_of(GetParam(), false), theirs = nets_of(GetParam(), true);
  const NestedProblem problem(*ours.whole);
  const std::vector<int64_t> units = part_of(*ours.whole->layout(), 2),
                             all = ours.whole->layout()->group_sizes();
  // By hand, with libtorch: the widest teaches by its training-mode logits.
  ParameterSet copy = problem.weights;
  const auto logits = theirs.whole->forward_training(problem.batch, copy.values());
  const std::vector<float> teacher(logits.begin(), logits.end());
  const auto narrow = theirs.narrow(units);
  const CoordinateMap map = prefix_map(*ours.whole->layout(), *narrow->layout());
  ParameterSet small(narrow->layout()), expected(narrow->layout());
  map.gather(problem.weights.values(), small.values());
  Batch lesson = problem.batch;
  lesson.teacher = teacher;
  lesson.loss = {.cross_entropy = 0.25, .distillation = 0.75, .temperature = 2};
  const BatchSums sums = narrow->train(lesson, small.values(), expected.values(), nullptr);

  NestedNet nested(*ours.whole, ours.narrow);
  SubmodelTraining training;
  training.widths = {units, all};
  training.distillation = 0.75;
  training.temperature = 2;
  nested.start(training, {}, Key(1));
  int narrow_steps = 0;
  ParameterSet gradient(problem.weights.shared_layout()), plain = gradient;
  ParameterSet untouched = problem.weights;
  const uint64_t whole_macs =
      ours.whole->train(problem.batch, untouched.values(), plain.values(), nullptr).macs;
  ParameterSet own(narrow->layout()), own_gradient(narrow->layout());
  map.gather(problem.weights.values(), own.values());
  const uint64_t narrow_macs =
      ours.narrow(units)->train(lesson, own.values(), own_gradient.values(), nullptr).macs +
      static_cast<uint64_t>(problem.batch.size) * ours.whole->macs_per_sample();
  for (int step = 0; step < 8; ++step) {
    ParameterSet weights = problem.weights;
    const BatchSums found =
        nested.train(problem.batch, weights.values(), gradient.values(), nullptr);
    if (found.macs == whole_macs) {
      EXPECT_TRUE(std::ranges::equal(gradient.values(), plain.values()));
      EXPECT_TRUE(std::ranges::equal(weights.values(), untouched.values()));
      continue;
    }
    ++narrow_steps;
    EXPECT_EQ(found.macs, narrow_macs) << "the narrow step, and the teacher's forward pass";
    EXPECT_NEAR(found.loss, sums.loss, 1e-4 * sums.loss);
    EXPECT_LT(distance(gathered(map, gradient), expected.values()), 1e-3);
    // The teacher left no trace in the statistics.
    EXPECT_LT(distance(gathered(map, weights), small.values()), 1e-5);
  }
  EXPECT_GT(narrow_steps, 0);
  EXPECT_LT(narrow_steps, 8);
}

// The loss at w is the net's own at scaled weights, and the gradient is its slope.
TEST_P(Nested, ScalerEqualsScaledOutputs) {
  const Nets nets = nets_of(GetParam(), true);
  const NestedProblem problem(*nets.whole);
  NestedNet nested(*nets.whole, nets.narrow);
  SubmodelTraining training;
  training.scale = 2;
  nested.start(training, {}, Key(1));
  const auto scaled = [&](const ParameterSet& weights) {
    ParameterSet out = weights;
    for (const ParameterInfo& tensor : out.layout().tensors()) {
      const bool last = tensor.name.starts_with("fc.") || tensor.name.starts_with("fc2.");
      if (last || (tensor.role != Role::kWeight && tensor.role != Role::kBias)) continue;
      for (float& value : out.values(tensor)) value *= 2;
    }
    return out;
  };
  const auto loss_at = [&](const ParameterSet& weights) {
    ParameterSet copy = scaled(weights), gradient(weights.shared_layout());
    return nets.whole->train(problem.batch, copy.values(), gradient.values(), nullptr).loss / 6;
  };
  ParameterSet weights = problem.weights, gradient(weights.shared_layout());
  const BatchSums sums = nested.train(problem.batch, weights.values(), gradient.values(), nullptr);
  EXPECT_NEAR(sums.loss / 6, loss_at(problem.weights), 1e-6);
  const double square = squared_norm(gradient.values());
  const auto step = static_cast<float>(1e-2 / std::sqrt(square));
  ParameterSet up = problem.weights, down = problem.weights;
  add_scaled(up.values(), step, gradient.values());
  add_scaled(down.values(), -step, gradient.values());
  const double slope = (loss_at(up) - loss_at(down)) / (2 * static_cast<double>(step));
  EXPECT_NEAR(slope / square, 1, 2e-2);
  for (const ParameterInfo& tensor : weights.layout().tensors()) {
    const bool same =
        std::ranges::equal(std::as_const(weights).values(tensor), problem.weights.values(tensor));
    EXPECT_EQ(same, is_trainable(tensor.role)) << tensor.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Nested, testing::Values("cnn", "resnet8", "lstm"),
                         [](const auto& test) { return test.param; });

struct Fitted {
  ParameterSet weights;
  FitResult result;
};
Fitted fitted(const std::string& model, const data::Dataset& set, const StepOptions& options,
              const SubmodelTraining* training, Key key = Key(2)) {
  ModelOptions model_options;
  model_options.name = model;
  const auto trainer = make_trainer(model_options, spec_of(set), {});
  Fitted out{ParameterSet(trainer->layout()), {}};
  trainer->initialize(Key(1), out.weights);
  trainer->load(out.weights);
  FitHooks hooks;
  hooks.submodel = training;
  out.result = trainer->fit(set, first_samples(40), options, hooks, key);
  trainer->store(out.weights);
  return out;
}

TEST(SubmodelTraining, DefaultIsPlainTraining) {
  const data::Dataset set = block_images({1, 12, 12}, 40, 10);
  const SubmodelTraining training;
  const Fitted a = fitted("cnn", set, {}, nullptr), b = fitted("cnn", set, {}, &training);
  EXPECT_TRUE(std::ranges::equal(a.weights.values(), b.weights.values()));
  EXPECT_EQ(a.result.loss, b.result.loss);
  EXPECT_EQ(a.result.macs, b.result.macs);
}

TEST(SubmodelTraining, WidthsFollowFromTheKeyAlone) {
  const data::Dataset set = block_images({1, 12, 12}, 40, 10);
  SubmodelTraining training;
  const auto units = graph_of("cnn").layout->group_sizes();
  training.widths = {part_of(*graph_of("cnn").layout, 4), part_of(*graph_of("cnn").layout, 2),
                     units};
  StepOptions options;
  options.epochs = 3;
  options.momentum = 0.9;
  const Fitted a = fitted("cnn", set, options, &training);
  Fitted b;
  std::thread([&] {
    configure_thread();
    b = fitted("cnn", set, options, &training);
  }).join();
  EXPECT_TRUE(std::ranges::equal(a.weights.values(), b.weights.values()));
  EXPECT_EQ(a.result.macs, b.result.macs);
  EXPECT_LT(a.result.macs, fitted("cnn", set, options, nullptr).result.macs);
  const Fitted other = fitted("cnn", set, options, &training, Key(3));
  EXPECT_FALSE(std::ranges::equal(a.weights.values(), other.weights.values()));

  // Uniformly drawn: 600 steps, three widths.
  const Nets nets = nets_of("cnn", false);
  const NestedProblem problem(*nets.whole);
  NestedNet nested(*nets.whole, nets.narrow);
  nested.start(training, {}, Key(5));
  ParameterSet weights = problem.weights, gradient(weights.shared_layout());
  std::map<uint64_t, int> counts;
  Batch one = problem.batch;
  one.size = 1;
  one.values = one.values.first(144);
  one.labels = one.labels.first(1);
  for (int step = 0; step < 600; ++step) {
    ++counts[nested.train(one, weights.values(), gradient.values(), nullptr).macs];
  }
  ASSERT_EQ(counts.size(), 3U);
  for (const auto& [macs, count] : counts) EXPECT_NEAR(count, 200, 60);
}

// Plain SGD leaves uncovered coordinates alone; weight decay reaches them, as in PyTorch.
TEST(SubmodelTraining, UncoveredCoordinates) {
  const data::Dataset set = block_images({1, 12, 12}, 40, 10);
  const Graph graph = graph_of("cnn");
  SubmodelTraining training;
  training.widths = {part_of(*graph.layout, 2)};
  ParameterSet start(graph.layout);
  draw_parameters(graph.init, Key(1), start);
  const CoordinateMap map =
      prefix_map(*graph.layout, *narrow_layout(*graph.layout, training.widths[0]));
  ParameterSet covered(graph.layout);
  map.scatter(std::vector<float>(map.small_size(), 1.0f), covered.values());
  StepOptions options;
  const Fitted plain = fitted("cnn", set, options, &training);
  options.max_steps = 1;
  options.weight_decay = 0.5;
  const Fitted decayed = fitted("cnn", set, options, &training);
  size_t moved = 0;
  for (size_t i = 0; i < start.size(); ++i) {
    const float before = start.values()[i], after = plain.weights.values()[i];
    if (covered.values()[i] != 0) {
      moved += after != before ? 1U : 0U;
    } else {
      ASSERT_EQ(after, before);
      ASSERT_NEAR(decayed.weights.values()[i], before * (1 - 0.05 * 0.5), 1e-6);
    }
  }
  EXPECT_GT(moved, map.small_size() / 2);
}

TEST(SubmodelTraining, StaticStatisticsStayAndChangeNothingElse) {
  const data::Dataset set = block_images({3, 16, 16}, 40, 10);
  const Graph graph = graph_of("resnet8");
  ParameterSet start(graph.layout);
  draw_parameters(graph.init, Key(1), start);
  SubmodelTraining training;
  training.static_statistics = true;
  const Fitted plain = fitted("resnet8", set, {}, nullptr);
  const Fitted still = fitted("resnet8", set, {}, &training);
  training.widths = {part_of(*graph.layout, 2)};
  training.scale = 2;
  const Fitted narrow = fitted("resnet8", set, {}, &training);
  for (const ParameterInfo& tensor : graph.layout->tensors()) {
    const auto was = std::as_const(start).values(tensor);
    const auto now = still.weights.values(tensor), with = plain.weights.values(tensor);
    if (is_trainable(tensor.role)) {
      EXPECT_TRUE(std::ranges::equal(now, with)) << tensor.name;
    } else {
      EXPECT_TRUE(std::ranges::equal(now, was)) << tensor.name;
      EXPECT_FALSE(std::ranges::equal(with, was)) << tensor.name;
      EXPECT_TRUE(std::ranges::equal(narrow.weights.values(tensor), was)) << tensor.name;
    }
  }
}

TEST(SubmodelTraining, MaskedClassesAreThoseOfTheClient) {
  data::Dataset set = block_images({1, 12, 12}, 40, 10);
  for (size_t i = 0; i < 40; ++i) set.labels[i] = i % 2 == 0 ? 2 : 7;
  ModelOptions options;
  const auto trainer = make_trainer(options, spec_of(set), {});
  ParameterSet weights(trainer->layout());
  trainer->initialize(Key(1), weights);
  trainer->load(weights);
  SubmodelTraining training;
  training.masked_cross_entropy = true;
  FitHooks hooks;
  hooks.submodel = &training;
  const ParameterInfo& bias = trainer->layout()->tensors().back();
  int calls = 0;
  hooks.before_step = [&](std::span<const float>, std::span<float> gradients) {
    ++calls;
    for (size_t c = 0; c < 10; ++c) {
      const float g = gradients[static_cast<size_t>(bias.offset) + c];
      EXPECT_EQ(g != 0, c == 2 || c == 7) << c;
    }
  };
  trainer->fit(set, first_samples(40), {}, hooks, Key(2));
  EXPECT_EQ(calls, 4);
}

TEST(SubmodelTraining, ExplainsWhatIsWrong) {
  const data::Dataset set = block_images({1, 12, 12}, 40, 10);
  const auto message = [&](auto change) {
    SubmodelTraining training;
    change(training);
    return error_of([&] { fitted("cnn", set, {}, &training); });
  };
  EXPECT_THAT(message([](auto& t) { t.distillation = 1.5; }), HasSubstr("distillation of 0 to 1"));
  EXPECT_THAT(message([](auto& t) { t.temperature = 0; }), HasSubstr("temperature above 0"));
  EXPECT_THAT(message([](auto& t) { t.scale = NAN; }), HasSubstr("scale above 0"));
  EXPECT_THAT(message([](auto& t) { t.widths = {{1}}; }), HasSubstr("3 unit groups, got 1"));
  EXPECT_THAT(message([](auto& t) { t.widths = {{1, 1, 100000}}; }), HasSubstr("got 100000"));
}

TEST(TrainingBytes, AreTheBuffersOfTheReplica) {
  const data::Dataset set = block_images({3, 32, 32}, 60, 10);
  ModelOptions model;
  StepOptions options;
  options.batch_size = 30;
  for (const std::string name : {"mlp", "cnn", "resnet8", "gated resnet8", "fbs cnn"}) {
    const size_t space = name.find(' ');
    model.name = space == std::string::npos ? name : name.substr(space + 1);
    model.gates = space == std::string::npos ? "none" : name.substr(0, space);
    const auto make = [&](std::span<const int64_t> units) {
      return make_trainer(model, spec_of(set), {}, units);
    };
    const auto whole = make({}), half = make(part_of(*whole->layout(), 2));
    const auto values = static_cast<uint64_t>(whole->layout()->size());
    const uint64_t bytes = whole->training_bytes(30, options);
    EXPECT_LT(half->training_bytes(30, options), 0.8 * static_cast<double>(bytes)) << name;
    EXPECT_LT(whole->training_bytes(10, options), bytes);
    StepOptions other = options;
    other.momentum = 0.9;
    EXPECT_EQ(whole->training_bytes(30, other), bytes + 4 * values);
    other.optimizer = "adam";
    EXPECT_EQ(whole->training_bytes(30, other), bytes + 8 * values);
    other.amsgrad = true;
    EXPECT_EQ(whole->training_bytes(30, other), bytes + 12 * values);
    // What a replica really takes from the heap and in large blocks, from nothing to trained; one
    // before it lets the libraries set themselves up.
    make({})->fit(set, first_samples(60), options, {}, Key(1));
    const auto heap = [] {
      const struct mallinfo2 info = mallinfo2();
      return info.uordblks + info.hblkhd + taken_block_bytes();
    };
    const size_t before = heap();
    if (mallinfo2().uordblks == 0) GTEST_SKIP() << "the sanitizer's heap does not count";
    const auto replica = make({});
    replica->fit(set, first_samples(60), options, {}, Key(1));
    const size_t taken = heap() - before;
    EXPECT_GE(taken, bytes) << name;
    // Plans, oneDNN's primitives, and what rounds large blocks up.
    EXPECT_LE(taken, bytes + (800U << 10)) << name;
  }
}

}  // namespace
}  // namespace espalier::models

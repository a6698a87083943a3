#include "espalier/script/script_module.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "espalier/base/test_error.h"
#include "espalier/script/script_analysis.h"
#include "espalier/script/script_random.h"

namespace espalier::script {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

// A module on disk; its data are 4 numbers of 3 classes.
class Net {
 public:
  Net() : module_("net") {
    options_.name = "torchscript";
    options_.file =
        (std::filesystem::path(testing::TempDir()) /
         concat("module_", testing::UnitTest::GetInstance()->current_test_info()->name(), ".pt"))
            .string();
    data_.kind = data::Kind::kFloat;
    data_.sample_shape = {4};
    data_.num_classes = 3;
  }
  ~Net() { std::filesystem::remove(options_.file); }

  Net& parameter(const std::string& name, const at::Tensor& value, bool trained = true) {
    module_.register_parameter(name, value.clone().set_requires_grad(trained), false);
    return *this;
  }
  Net& buffer(const std::string& name, const at::Tensor& value) {
    module_.register_buffer(name, value);
    return *this;
  }
  ::torch::jit::Module& raw() { return module_; }
  ScriptModule load(const std::string& body) {
    module_.define("def forward(self, x):\n" + body);
    module_.save(options_.file);
    return ScriptModule(options_);
  }
  ModelOptions& options() { return options_; }
  const DataSpec& data() const { return data_; }

 private:
  ::torch::jit::Module module_;
  ModelOptions options_;
  DataSpec data_;
};

std::vector<std::string> names(const std::vector<ParameterInfo>& tensors) {
  std::vector<std::string> out;
  for (const ParameterInfo& tensor : tensors) out.push_back(tensor.name);
  return out;
}

TEST(ScriptModule, FrozenParametersAreNoTensorsOfTheLayout) {
  Net net;
  net.parameter("a", at::ones({4, 4}), false).parameter("b", at::ones({3, 4}));
  const ScriptModule module =
      net.load("    return torch.linear(torch.linear(x, self.a), self.b)\n");
  EXPECT_THAT(names(module.tensors()), ElementsAre("b"));
  EXPECT_THAT(names(module.fixed()), ElementsAre("a"));
  EXPECT_EQ(module.num_frozen(), 1U);
}

TEST(ScriptModule, TiedParametersAreOneTensorWithTwoNames) {
  Net net;
  const at::Tensor shared = at::ones({4, 4}).set_requires_grad(true);
  net.raw().register_parameter("a", shared, false);
  net.raw().register_parameter("b", shared, false);
  net.parameter("c", at::ones({3, 4}));
  ScriptModule module =
      net.load("    return torch.linear(torch.linear(torch.linear(x, self.a), self.b), self.c)\n");
  EXPECT_THAT(names(module.tensors()), ElementsAre("a", "c"));
  EXPECT_THAT(module.fixed_tensors().other_names, ElementsAre(testing::Pair("b", "a")));
  module.set({at::full({4, 4}, 2.0f), at::ones({3, 4})});
  const at::Tensor found = module.run(at::ones({1, 4}), false);
  EXPECT_EQ(found[0][0].item<float>(), 4 * 8 * 8.0f);  // both uses have the new values
}

TEST(ScriptModule, BuffersAreWrittenOrConstant) {
  Net net;
  net.parameter("w", at::ones({3, 4}));
  net.buffer("in_place", at::zeros({4}));
  net.buffer("view", at::zeros({2, 4}));
  net.buffer("assigned", at::zeros({4}));
  net.buffer("listed", at::zeros({4}));
  net.buffer("read", at::ones({4}));
  net.buffer("mean", at::zeros({4}));
  net.buffer("variance", at::ones({4}));
  ScriptModule module = net.load(
      "    self.in_place.add_(1)\n"
      "    self.view[0].mul_(2)\n"
      "    self.assigned = self.assigned + 1\n"
      "    several = [self.listed, self.read]\n"
      "    several[0].add_(1)\n"
      "    x = torch.batch_norm(x, None, None, self.mean, self.variance, True, 0.1, 1e-5, False)\n"
      "    return torch.linear(x * self.read, self.w)\n");
  const ScriptAnalysis found = analyse(module.module());
  EXPECT_FALSE(found.anything_written);
  EXPECT_FALSE(found.random);
  // Of a list no more is known than that something in it is written.
  EXPECT_THAT(found.written, UnorderedElementsAre("in_place", "view", "assigned", "listed", "read",
                                                  "mean", "variance"));
}

TEST(ScriptModule, AssignedBuffersAndThoseOfOtherTypesAreCollected) {
  Net net;
  net.parameter("w", at::ones({3, 4}));
  net.buffer("ema", at::zeros({4}));
  net.buffer("wide", at::zeros({1}, at::kDouble));
  net.buffer("steps", at::zeros({1}, at::kInt));
  ScriptModule module = net.load(
      "    self.ema = 0.5 * self.ema + x[0]\n"
      "    self.wide.add_(0.25)\n"
      "    self.steps += 1\n"
      "    return torch.linear(x, self.w)\n");
  ASSERT_THAT(names(module.tensors()), ElementsAre("w", "ema", "wide", "steps"));
  const std::vector<at::Tensor> values = {at::ones({3, 4}), at::ones({4}), at::zeros({1}),
                                          at::zeros({1}, at::kLong)};
  for (int pass = 0; pass < 2; ++pass) {
    module.set(values, pass == 0);
    module.run(at::full({1, 4}, 3.0f), true);
    module.collect(values);
  }
  EXPECT_EQ(values[1][0].item<float>(), 0.5f * 3.5f + 3);
  EXPECT_EQ(values[2].item<float>(), 0.5f);
  EXPECT_EQ(values[3].item<int64_t>(), 2);
}

TEST(ScriptModule, ConstantBuffersKeepWhatNoFloatHolds) {
  Net net;
  net.parameter("w", at::ones({3, 4}));
  const int64_t large = (int64_t{1} << 40) + 1;
  net.buffer("table", at::full({1}, large, at::kLong));
  net.buffer("mask", at::full({4}, -std::numeric_limits<float>::infinity()));
  ScriptModule module =
      net.load("    return torch.linear(x * torch.exp(self.mask), self.w) + self.table * 0\n");
  const ScriptUnits units = find_script_units(module, net.data());
  EXPECT_THAT(names(units.layout->tensors()), ElementsAre("w"));
  EXPECT_EQ(module.module().attr("table").toTensor().item<int64_t>(), large);
  EXPECT_THAT(names(module.fixed_tensors().values.layout().tensors()), ElementsAre("mask"));
}

TEST(ScriptModule, OtherStateLastsForAFit) {
  Net net;
  net.parameter("w", at::ones({3, 4}));
  net.raw().register_attribute("calls", c10::IntType::get(), int64_t{5});
  ScriptModule module = net.load(
      "    self.calls += 1\n"
      "    return torch.linear(x, self.w) * self.calls\n");
  const auto first = [&](bool fresh) {
    module.set({at::ones({3, 4})}, fresh);
    return module.run(at::ones({1, 4}), true)[0][0].item<float>() / 4;
  };
  EXPECT_EQ(first(true), 6);
  EXPECT_EQ(first(false), 7);
  EXPECT_EQ(first(true), 6);
}

TEST(ScriptModule, TheLogitsAreWhatTheOutputNames) {
  Net net;
  net.parameter("w", at::ones({3, 4}));
  net.options().output = "logits";
  ScriptModule module =
      net.load("    return {\"logits\": torch.linear(x, self.w), \"input\": x}\n");
  EXPECT_EQ(module.run(at::ones({2, 4}), false).size(1), 3);
  net.options().output = "logit";
  EXPECT_THAT(error_of([&] {
                ScriptModule(net.options()).run(at::ones({2, 4}), false);
              }),
              testing::AllOf(HasSubstr("returns no \"logit\""), HasSubstr("\"input\" ([2, 4])")));
  net.options().output = "";
  EXPECT_THAT(error_of([&] {
                ScriptModule(net.options()).run(at::ones({2, 4}), false);
              }),
              HasSubstr("set model.output"));
}

// What a thread draws under a key, of every operator.
std::vector<float> drawn(Key key) {
  const RandomScope scope(key, true);
  std::vector<float> out;
  const auto keep = [&](const at::Tensor& values) {
    const at::Tensor all = values.to(at::kFloat).flatten().contiguous();
    out.insert(out.end(), all.data_ptr<float>(), all.data_ptr<float>() + all.numel());
  };
  const at::Tensor ones = at::ones({64});
  keep(at::rand({8}));
  keep(at::randn({8}));
  keep(at::randint(100, {8}));
  keep(at::randperm(8));
  keep(at::rand_like(ones));
  keep(at::bernoulli(ones * 0.5));
  keep(at::multinomial(ones, 4));
  keep(at::dropout(ones, 0.5, true));
  keep(at::feature_dropout(at::ones({2, 16, 3}), 0.5, true));
  keep(at::alpha_dropout(ones, 0.5, true));
  keep(at::rrelu(-ones, 0.1, 0.9, true));
  keep(at::normal(0.0, 1.0, {8}));
  keep(at::poisson(ones));
  keep(ones.clone().exponential_());
  return out;
}

TEST(RandomScope, TheSameKeyDrawsTheSameInEveryThread) {
  const std::vector<float> expected = drawn(Key(7));
  EXPECT_NE(drawn(Key(8)), expected);
  std::vector<std::vector<float>> found(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < found.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int again = 0; again < 20; ++again) found[i] = drawn(Key(7));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& values : found) EXPECT_EQ(values, expected);
}

TEST(RandomScope, LeavesTheDefaultGeneratorAlone) {
  at::manual_seed(3);
  const at::Tensor expected = at::rand({8});
  at::manual_seed(3);
  drawn(Key(7));
  EXPECT_TRUE(at::equal(at::rand({8}), expected));
}

TEST(RandomScope, GradientsPassThrough) {
  const RandomScope scope(Key(7), true);
  const at::Tensor x = at::ones({64}).set_requires_grad(true);
  const at::Tensor y = at::dropout(x, 0.5, true);
  y.sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), y.detach()));
  const float kept = y.sum().item<float>() / 2;
  EXPECT_GT(kept, 16);
  EXPECT_LT(kept, 48);
}

}  // namespace
}  // namespace espalier::script

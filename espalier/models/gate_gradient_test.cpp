// The gates of the explicit engine: kernels by hand, gradients against finite
// differences, and that what a gate shuts off gets none. graph_net_test.cpp
// compares whole nets with libtorch.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "espalier/models/test_problem.h"
#include "espalier/nn/gate_kernels.h"
#include "espalier/nn/gated_kernels.h"
#include "espalier/nn/gates.h"
#include "espalier/nn/graph_net.h"
#include "espalier/params/hidden_outputs.h"

namespace espalier::models {
namespace {

TEST(GateKernels, KeepLargestBreaksTiesByChannel) {
  std::vector<float> work(6);
  std::vector<float> g = {1, 3, 2, 3, 0, 2};
  keep_largest(g.data(), 6, 3, work.data());
  EXPECT_EQ(g, (std::vector<float>{0, 3, 2, 3, 0, 0}));
  g = {5, 5, 5, 5, 5, 5};
  keep_largest(g.data(), 6, 2, work.data());
  EXPECT_EQ(g, (std::vector<float>{5, 5, 0, 0, 0, 0}));
  g = {0, 0, 7, 0, 0, 0};  // fewer fire than may survive
  keep_largest(g.data(), 6, 4, work.data());
  EXPECT_EQ(g, (std::vector<float>{0, 0, 7, 0, 0, 0}));
  keep_largest(g.data(), 6, 6, work.data());
  EXPECT_EQ(g[2], 7);
}

// Of gated_affine() and the kernels of its backward pass against plain loops. Values are small
// integers, exact in bf16, and so are all sums in every order. Without `parts` whatever may be null
// is.
template <class T>
void check_gated_kernels(size_t rows, size_t channels, bool parts) {
  SCOPED_TRACE(testing::Message() << rows << " rows of " << channels << (parts ? "" : ", alone"));
  Stream stream(Key(1));
  const auto draw = [&]<class V>(std::vector<V> out) {
    for (V& v : out) put(v, static_cast<float>(static_cast<int64_t>(stream.below(9)) - 4));
    return out;
  };
  const size_t size = rows * channels;
  const std::vector<T> values(size);
  const std::vector<float> table(channels);
  const auto x = draw(values), residual = draw(values), more = draw(values), dy = draw(values);
  const auto a = draw(table), b = draw(table), even = draw(table);
  const auto maybe = [&](const auto& from) { return parts ? from.data() : nullptr; };

  std::vector<T> y(size), dz = dy, dx = dy, shifted = x;
  std::vector<float> means(channels), alone(channels), sum(channels), product(channels);
  gated_affine({rows, channels},
               GatedAffine<T>{.x = x.data(),
                              .residual = maybe(residual),
                              .a = a.data(),
                              .b = b.data(),
                              .relu = parts,
                              .means = parts ? means.data() : nullptr},
               y.data());
  channel_means(y.data(), rows, channels, alone.data());
  gated_gradient_sums({rows, channels},
                      GatedGradient<T>{.y = maybe(y),
                                       .x = x.data(),
                                       .more = maybe(more),
                                       .even = maybe(even),
                                       .center = maybe(b),
                                       .scale = maybe(a),
                                       .sum = sum.data(),
                                       .product = product.data()},
                      dz.data());
  gated_input_gradient({rows, channels}, dx.data(), x.data(), a.data(), b.data(), even.data(),
                       dx.data());
  add_even({rows, channels}, even.data(), shifted.data());
  for (size_t c = 0; c < channels; ++c) {
    double mean = 0, p = 0, q = 0;
    for (size_t r = 0; r < rows; ++r) {
      const size_t i = r * channels + c;
      const float value = to_float(x[i]), arrived = to_float(dy[i]);
      float expected = a[c] * value + b[c];
      float g = arrived;
      if (parts) {
        expected = std::max(0.0f, expected + to_float(residual[i]));
        g = expected > 0 ? arrived + to_float(more[i]) + even[c] : 0.0f;
      }
      ASSERT_EQ(to_float(y[i]), expected);
      mean += static_cast<double>(expected);
      p += static_cast<double>(g);
      q += static_cast<double>(g * (parts ? value - b[c] : value));
      ASSERT_EQ(to_float(dz[i]), parts ? a[c] * g : g);
      ASSERT_EQ(to_float(dx[i]), a[c] * arrived + b[c] * value + even[c]);
      ASSERT_EQ(to_float(shifted[i]), value + even[c]);
    }
    ASSERT_EQ(sum[c], static_cast<float>(p));
    ASSERT_EQ(product[c], static_cast<float>(q));
    ASSERT_NEAR(alone[c], mean / static_cast<double>(rows), 1e-5);
    if (parts) {
      ASSERT_EQ(means[c], alone[c]);
    }
  }
}

// 45 channels leave some that fill no vector; 5 to 34 but for 16 have rows that are joined where
// their number allows it and the line is no longer than 256 values, which it would be for 34.
TEST(GateKernels, EqualPlainLoops) {
  for (const size_t channels : {5UL, 7UL, 8UL, 12UL, 16UL, 24UL, 30UL, 34UL, 45UL, 64UL, 112UL}) {
    for (const size_t rows : {1UL, 6UL, 49UL, 64UL, 256UL, 259UL, 1040UL}) {
      for (const bool parts : {true, false}) {
        check_gated_kernels<float>(rows, channels, parts);
        check_gated_kernels<Bf16>(rows, channels, parts);
      }
    }
  }
}

TEST(GateKernels, ValuesDoNotDependOnTheBatch) {
  Stream stream(Key(2));
  const auto draw = [&](size_t size) {
    std::vector<float> out(size);
    for (float& v : out) v = static_cast<float>(stream.normal());
    return out;
  };
  for (const size_t out : {5UL, 16UL, 50UL}) {
    const size_t in = 21, batch = 7;
    const auto s = draw(batch * in), weight = draw(out * in), bias = draw(out);
    std::vector<float> transposed(in * out), g(batch * out), one(out);
    transpose(weight.data(), out, in, transposed.data());
    gate_values({batch, in, out}, s.data(), transposed.data(), bias.data(), g.data());
    for (size_t n = 0; n < batch; ++n) {
      gate_values({1, in, out}, s.data() + n * in, transposed.data(), bias.data(), one.data());
      for (size_t o = 0; o < out; ++o) {
        double expected = static_cast<double>(bias[o]);
        for (size_t i = 0; i < in; ++i)
          expected += static_cast<double>(weight[o * in + i]) * static_cast<double>(s[n * in + i]);
        ASSERT_NEAR(g[n * out + o], std::max(0.0, expected), 1e-5);
        ASSERT_EQ(g[n * out + o], one[o]);
      }
    }
  }
}

struct Case {
  std::string model, gates, norm;
  double width;
};

Graph graph_of(const Case& c, double ratio) {
  ModelOptions options;
  options.name = c.model;
  options.gates = c.gates;
  options.norm = c.norm;
  options.width = c.width;
  options.gate_ratio = ratio;
  options.gate_sigmoid = c.model == "all-cnn";
  options.gate_l1 = c.gates == "fbs" ? 0.01 : 0;
  return graph_of(options, {3, 32, 32});
}

// A net, its weights as it starts and a batch of noise.
struct NetProblem : Problem {
  Graph graph;
  ParameterSet gradient;

  NetProblem(Graph net, int64_t size)
      : Problem(net, size, {.width = 0}), graph(std::move(net)), gradient(graph.layout) {}
  NetProblem(const Case& c, int64_t size, double ratio) : NetProblem(graph_of(c, ratio), size) {}
  const ParameterInfo& tensor(int i) const {
    return graph.layout->tensors()[static_cast<size_t>(i)];
  }
  // Row `row` of a tensor's gradient.
  std::span<const float> row(int i, size_t row) const {
    const ParameterInfo& info = tensor(i);
    const size_t size = static_cast<size_t>(info.size / info.shape[0]);
    return std::as_const(gradient).values(info).subspan(row * size, size);
  }
};

class GateGradients : public testing::TestWithParam<Case> {};

// Along the gradient the loss must rise by its length. The even channels' gates are well above the
// odd ones', so that no step changes the selection, where the loss jumps.
TEST_P(GateGradients, EqualFiniteDifferences) {
  NetProblem p(GetParam(), 6, 0.5);
  for (const GatedConv& g : gated_convs(p.graph)) {
    const Node& gate = p.graph.nodes[static_cast<size_t>(g.gate)];
    for (float& weight : p.weights.values(p.tensor(gate.weight))) weight *= 0.1f;
    const auto bias = p.weights.values(p.tensor(gate.bias));
    for (size_t c = 0; c < bias.size(); ++c) bias[c] = c % 2 == 0 ? 1.5f : 0.5f;
  }
  GraphNet net(p.graph, Type::kFloat);
  ParameterSet work = p.weights;
  net.train(p.batch, work.values(), p.gradient.values(), nullptr);
  // Of all parameters together, and of the gates' alone.
  for (const bool gates : {false, true}) {
    ParameterSet direction = p.gradient;
    for (const ParameterInfo& info : p.graph.layout->tensors()) {
      if (!is_trainable(info.role) || (gates && !is_gate_tensor(info.name)))
        std::ranges::fill(direction.values(info), 0.0f);
    }
    const double length = std::sqrt(squared_norm(direction.values()));
    ASSERT_GT(length, 1e-3);
    const auto loss = [&](double step) {
      work = p.weights;
      add_scaled(work.values(), static_cast<float>(step / length), direction.values());
      std::vector<float> ignored(work.size());
      return net.train(p.batch, work.values(), ignored, nullptr).loss / 6;
    };
    // A step that changes the loss by about a thousandth: small against kinks,
    // large against rounding.
    const double step = 2e-3 / length;
    EXPECT_NEAR((loss(step) - loss(-step)) / (2 * step), length, 0.03 * length) << gates;
  }
}

// Channel 1 of every gated convolution never fires: nothing of it may move, in
// any precision; and what fires moves.
TEST_P(GateGradients, AreZeroForChannelsThatNeverFire) {
  NetProblem p(GetParam(), 4, 0.7);
  std::vector<GatedConv> gated = gated_convs(p.graph);
  for (const GatedConv& g : gated) {
    const Node& gate = p.graph.nodes[static_cast<size_t>(g.gate)];
    const auto in = static_cast<size_t>(gate.in.channels);
    std::ranges::fill(p.weights.values(p.tensor(gate.weight)).subspan(in, in), 0.0f);
    p.weights.values(p.tensor(gate.bias))[1] = -1;
  }
  for (const Type type : types()) {
    GraphNet net(p.graph, type);
    std::ranges::fill(p.gradient.values(), NAN);
    ParameterSet work = p.weights;
    net.train(p.batch, work.values(), p.gradient.values(), nullptr);
    for (const GatedConv& g : gated) {
      const auto node = [&](int i) { return p.graph.nodes[static_cast<size_t>(i)]; };
      for (const Node& n : {node(g.conv), node(g.gate), node(g.apply)}) {
        for (const int tensor : {n.weight, n.bias}) {
          if (tensor == kNone) continue;
          const auto zero = [](float v) { return v == 0; };
          // A group's statistics couple its channels: the filter moves with the others.
          const bool coupled = n.op == Op::kConv && GetParam().norm == "group";
          EXPECT_NE(std::ranges::all_of(p.row(tensor, 1), zero), coupled) << p.tensor(tensor).name;
          const auto all = std::as_const(p.gradient).values(p.tensor(tensor));
          EXPECT_FALSE(std::ranges::all_of(all, zero)) << p.tensor(tensor).name;
          EXPECT_TRUE(all_finite(all)) << p.tensor(tensor).name;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, GateGradients,
    testing::Values(Case{"cnn", "gated", "batch", 0.5}, Case{"cnn", "fbs", "batch", 0.5},
                    Case{"cnn-cifar", "gated", "batch", 0.5},
                    Case{"all-cnn", "gated", "batch", 0.3}, Case{"vgg11", "gated", "batch", 0.2},
                    Case{"vgg11", "fbs", "batch", 0.2}, Case{"resnet8", "gated", "batch", 1},
                    Case{"resnet8", "gated", "group", 1}, Case{"resnet8", "fbs", "batch", 1}),
    [](const auto& row) {
      std::string name = row.param.model + "_" + row.param.gates + "_" + row.param.norm;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

// One sample, no normalization: only the survivors' rows have a gradient.
TEST(GateGradients, OfOneSampleReachItsSalientChannelsOnly) {
  for (const std::string mode : {"gated", "fbs"}) {
    NetProblem p({"cnn", mode, "batch", 1}, 1, 0.5);
    GraphNet net(p.graph, Type::kFloat);
    ParameterSet work = p.weights;
    net.train(p.batch, work.values(), p.gradient.values(), nullptr);
    for (const GatedConv& g : gated_convs(p.graph)) {
      const Node &conv = p.graph.nodes[static_cast<size_t>(g.conv)],
                 &gate = p.graph.nodes[static_cast<size_t>(g.gate)];
      size_t moved = 0;
      for (size_t c = 0; c < static_cast<size_t>(conv.out.channels); ++c) {
        const bool rows[] = {squared_norm(p.row(conv.weight, c)) > 0,
                             squared_norm(p.row(gate.weight, c)) > 0};
        if (mode == "gated") {
          EXPECT_EQ(rows[0], rows[1]) << c;
        } else {
          EXPECT_LE(rows[0], rows[1]) << c;
        }
        moved += rows[0] ? 1 : 0;
      }
      EXPECT_LE(moved, static_cast<size_t>(conv.out.channels) / 2);
      EXPECT_GT(moved, static_cast<size_t>(conv.out.channels) / 4);
    }
  }
}

}  // namespace
}  // namespace espalier::models

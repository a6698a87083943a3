#include "espalier/nn/graph.h"

#include <algorithm>
#include <cmath>

#include "espalier/nn/gates.h"

namespace espalier::nn {
namespace {

constexpr double kFbsShift = 0.1;  // where β of mode "fbs" starts

}  // namespace

Init uniform_init(int64_t fan_in) {
  return {Init::kUniform, 1 / std::sqrt(static_cast<double>(fan_in))};
}

Init he_init(int64_t fan_in) { return {Init::kNormal, std::sqrt(2 / static_cast<double>(fan_in))}; }

int64_t norm_groups(int64_t channels) {
  int64_t width = std::min<int64_t>(8, channels);
  while (channels % width != 0) --width;
  return channels / width;
}

void draw_parameters(const std::vector<Init>& init, Key key, ParameterSet& out) {
  const auto& tensors = out.layout().tensors();
  ESPALIER_CHECK(init.size() == tensors.size(), init.size(), " initializers for ", tensors.size(),
                 " tensors");
  for (size_t i = 0; i < tensors.size(); ++i) {
    Stream stream(key.child(i));
    const Init& how = init[i];
    for (float& value : out.values(tensors[i])) {
      switch (how.kind) {
        case Init::kConstant:
          value = static_cast<float>(how.value);
          break;
        case Init::kUniform:
          value = static_cast<float>(how.value * (2 * stream.uniform() - 1));
          break;
        case Init::kNormal:
          value = static_cast<float>(how.value * stream.normal());
          break;
      }
    }
  }
}

std::array<int, 7> tensors_of(const Node& node) {
  return {node.weight,  node.bias,      node.mean,          node.variance,
          node.counter, node.recurrent, node.recurrent_bias};
}

std::vector<size_t> extractor_tensors(const Graph& graph) {
  std::vector<size_t> out;
  for (int i = 0; i <= graph.features; ++i) {
    const Node& node = graph.nodes[static_cast<size_t>(i)];
    for (const int tensor : tensors_of(node)) {
      if (tensor != kNone) out.push_back(static_cast<size_t>(tensor));
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

GraphBuilder::GraphBuilder(std::string model, Shape input) : model_(std::move(model)) {
  graph_.input = input;
}

const Shape& GraphBuilder::shape(int node) const {
  return node == kGraphInput ? graph_.input : graph_.nodes[static_cast<size_t>(node)].out;
}

int GraphBuilder::add(Node node) {
  if (node.out.channels < 1 || node.out.height < 1 || node.out.width < 1) {
    fail("train/model", "model '", model_, "' does not fit samples of ", graph_.input.channels, "×",
         graph_.input.height, "×", graph_.input.width, ": nothing is left after layer ",
         graph_.nodes.size() + 1, "; use larger images or a smaller model");
  }
  graph_.macs += node_macs(node);
  graph_.nodes.push_back(node);
  return static_cast<int>(graph_.nodes.size()) - 1;
}

int GraphBuilder::tensor(const std::string& name, std::vector<int64_t> shape, Role role,
                         Init init) {
  tensors_.push_back({.name = name, .shape = std::move(shape), .role = role});
  graph_.init.push_back(init);
  return static_cast<int>(tensors_.size()) - 1;
}

int GraphBuilder::conv(const std::string& name, int from, const Conv& conv) {
  const Shape in = shape(from);
  Node node{.op = Op::kConv, .input = from, .relu = conv.relu, .in = in};
  node.kernel = conv.kernel;
  node.stride = conv.stride;
  node.padding = conv.padding;
  const auto extent = [&](int64_t n) {
    const int64_t room = n + 2 * conv.padding - conv.kernel;
    return room < 0 ? 0 : room / conv.stride + 1;
  };
  node.out = {conv.channels, extent(in.height), extent(in.width)};
  const int64_t fan_in = in.channels * conv.kernel * conv.kernel;
  const Init init = conv.he ? he_init(fan_in) : uniform_init(fan_in);
  node.weight = tensor(name + ".weight", {conv.channels, in.channels, conv.kernel, conv.kernel},
                       Role::kWeight, init);
  if (conv.bias) {
    node.bias = tensor(name + ".bias", {conv.channels}, Role::kBias, conv.he ? Init{} : init);
  }
  return add(node);
}

int GraphBuilder::linear(const std::string& name, int from, int64_t features, bool relu) {
  const Shape in = shape(from);
  Node node{.op = Op::kLinear, .input = from, .relu = relu, .in = in, .out = {features, 1, 1}};
  const Init init = uniform_init(in.size());
  node.weight = tensor(name + ".weight", {features, in.size()}, Role::kWeight, init);
  node.bias = tensor(name + ".bias", {features}, Role::kBias, init);
  return add(node);
}

int GraphBuilder::max_pool(int from, int64_t window) {
  const Shape in = shape(from);
  Node node{.op = Op::kMaxPool, .input = from, .in = in};
  node.kernel = node.stride = window;
  node.out = {in.channels, in.height / window, in.width / window};
  return add(node);
}

int GraphBuilder::norm(const std::string& name, int from, const Norm& norm) {
  const Shape in = shape(from);
  Node node{.op = norm.group ? Op::kGroupNorm : Op::kBatchNorm,
            .input = from,
            .residual = norm.residual,
            .gate = norm.gate,
            .relu = norm.relu,
            .in = in,
            .out = in};
  const int64_t n = in.channels;
  const bool fbs = norm.gate != kNone && gates_->fbs;
  if (!fbs) node.weight = tensor(name + ".weight", {n}, Role::kNorm, {Init::kConstant, 1});
  node.bias = tensor(name + ".bias", {n}, Role::kNorm, {Init::kConstant, fbs ? kFbsShift : 0});
  if (norm.group) {
    node.groups = norm_groups(n);
  } else {
    node.mean = tensor(name + ".running_mean", {n}, Role::kStatistic, {Init::kConstant, 0});
    node.variance = tensor(name + ".running_var", {n}, Role::kStatistic, {Init::kConstant, 1});
    node.counter = tensor(name + ".num_batches_tracked", {}, Role::kCounter, {Init::kConstant, 0});
  }
  return add(node);
}

int GraphBuilder::gate(const std::string& conv, int from, int64_t channels) {
  if (!gates_) return kNone;
  const Shape in = shape(from);
  Node node{.op = Op::kGate, .input = from, .in = in, .out = {channels, 1, 1}};
  node.sigmoid = gates_->sigmoid;
  node.penalty = gates_->l1;
  node.weight = tensor(conv + ".gate.weight", {channels, in.channels}, Role::kWeight,
                       gates_->open ? Init{Init::kConstant, 0} : he_init(in.channels));
  node.bias = tensor(conv + ".gate.bias", {channels}, Role::kBias, {Init::kConstant, 1});
  return add(node);
}

// The ReLU stands where its backward pass costs least: in the convolution when only the pooling
// reads it (layer.h), else in the scaling.
int GraphBuilder::gated_conv(const std::string& name, int from, Conv conv, int64_t window) {
  const int gated = gate(name, from, conv.channels);
  const bool fbs = gated != kNone && gates_->fbs;
  conv.relu = gated == kNone || (window != 0 && !fbs);
  conv.bias = !fbs;
  int x = this->conv(name, from, conv);
  if (window != 0) x = max_pool(x, window);
  if (gated == kNone) return x;
  const Shape in = shape(x);
  Node node{.op = Op::kScale, .input = x, .gate = gated, .relu = !conv.relu, .in = in, .out = in};
  if (fbs)
    node.bias = tensor(name + ".bias", {in.channels}, Role::kBias, {Init::kConstant, kFbsShift});
  return add(node);
}

int GraphBuilder::global_average(int from) {
  const Shape in = shape(from);
  return add({.op = Op::kGlobalAverage, .input = from, .in = in, .out = {in.channels, 1, 1}});
}

int GraphBuilder::flatten(int from) {
  const Shape in = shape(from);
  return add({.op = Op::kFlatten, .input = from, .in = in, .out = {in.size(), 1, 1}});
}

int GraphBuilder::embedding(const std::string& name, int64_t vocabulary, int64_t features) {
  Node node{.op = Op::kEmbedding, .in = graph_.input, .out = graph_.input};
  ESPALIER_CHECK(node.in.channels == 1, "a token is one number");
  node.out.channels = features;
  node.weight =
      tensor(name + ".weight", {vocabulary, features}, Role::kEmbedding, {Init::kNormal, 1});
  graph_.tokens = true;
  return add(node);
}

int GraphBuilder::lstm(const std::string& name, int from, const Lstm& lstm) {
  const Shape in = shape(from);
  Node node{.op = Op::kLstm, .input = from, .in = in, .last = lstm.last};
  node.out = {lstm.units, 1, lstm.last ? 1 : in.width};
  const std::string end = concat("_l", lstm.layer);
  const Init init = uniform_init(lstm.units);
  const int64_t rows = 4 * lstm.units;
  node.weight = tensor(name + ".weight_ih" + end, {rows, in.channels}, Role::kWeight, init);
  node.recurrent = tensor(name + ".weight_hh" + end, {rows, lstm.units}, Role::kWeight, init);
  node.bias = tensor(name + ".bias_ih" + end, {rows}, Role::kBias, init);
  node.recurrent_bias = tensor(name + ".bias_hh" + end, {rows}, Role::kBias, init);
  return add(node);
}

uint64_t node_macs(const Node& node) {
  // Unsigned: a model that is refused for its size must not overflow first.
  const auto size = [](int64_t value) { return static_cast<uint64_t>(value); };
  const uint64_t in = size(node.in.channels), out = size(node.out.channels);
  switch (node.op) {
    case Op::kConv:
      return out * size(node.out.pixels()) * in * size(node.kernel * node.kernel);
    case Op::kLinear:
      return out * in * size(node.in.pixels());
    case Op::kGate:
      return out * in;
    case Op::kLstm:
      return size(node.in.width) * 4 * out * (in + out);
    default:
      return 0;
  }
}

std::vector<bool> needed_gradients(const Graph& graph) {
  std::vector<bool> needed;
  for (const Node& node : graph.nodes) {
    const bool before = node.input >= 0 && needed[static_cast<size_t>(node.input)];
    needed.push_back(node.weight != kNone || node.bias != kNone || node.gate != kNone || before);
  }
  return needed;
}

uint64_t dense_training_macs(const Graph& graph) {
  const std::vector<bool> needed = needed_gradients(graph);
  uint64_t macs = 0;
  for (const Node& node : graph.nodes) {
    const bool dx = node.input >= 0 && needed[static_cast<size_t>(node.input)];
    macs += node_macs(node) * (dx ? 3 : 2);
  }
  return macs;
}

Graph GraphBuilder::finish() && {
  for (int i = graph_.features + 1;
       graph_.features != kNone && i < static_cast<int>(graph_.nodes.size()); ++i) {
    const Node& node = graph_.nodes[static_cast<size_t>(i)];
    ESPALIER_CHECK(node.input >= graph_.features &&
                       (node.residual == kNone || node.residual >= graph_.features),
                   "node ", i, " reads what stands before the features");
  }
  if (gates_) {
    const int ratio = tensor(kGateRatio, {1}, Role::kCounter,
                             {Init::kConstant, std::max(1.0, std::round(gates_->ratio * 1e6))});
    for (Node& node : graph_.nodes) {
      if (node.op == Op::kGate) node.counter = ratio;
    }
  }
  std::vector<UnitGroup> groups = find_units(graph_, tensors_);
  graph_.layout = std::make_shared<const ParameterLayout>(std::move(tensors_), std::move(groups));
  return std::move(graph_);
}

}  // namespace espalier::nn

#include <numeric>

#include "espalier/nn/graph.h"

namespace espalier::nn {
namespace {

// Sets of channels that must be kept or dropped together, as a forest.
class Sets {
 public:
  size_t add() {
    parents_.push_back(parents_.size());
    return parents_.size() - 1;
  }
  size_t find(size_t set) {
    while (parents_[set] != set) set = parents_[set] = parents_[parents_[set]];
    return set;
  }
  void join(size_t a, size_t b) { parents_[find(a)] = find(b); }
  size_t size() const { return parents_.size(); }

 private:
  std::vector<size_t> parents_;
};

// Whether each output channel is a unit that the node's own weight computes.
bool computes_units(Op op) {
  return op == Op::kConv || op == Op::kLinear || op == Op::kEmbedding || op == Op::kLstm;
}

// "conv1.weight" → "conv1", "lstm.weight_ih_l0" → "lstm_l0".
std::string group_name(const Node& node, std::string weight) {
  const std::string part = node.op == Op::kLstm ? ".weight_ih" : ".weight";
  return weight.erase(weight.rfind(part), part.size());
}

// The channels of a value: the set they belong to, and how many indices each takes.
struct Channels {
  size_t set = 0;
  int64_t repeat = 1;
};

}  // namespace

std::vector<UnitGroup> find_units(const Graph& graph, std::vector<ParameterInfo>& tensors) {
  Sets sets;
  const size_t whole = sets.add();  // input, feature map and logits: never dropped
  std::vector<Channels> values;
  const auto channels_of = [&](int node) {
    return node == kGraphInput ? Channels{whole, 1} : values[static_cast<size_t>(node)];
  };
  for (const Node& node : graph.nodes) {
    Channels out = channels_of(node.input);
    if (computes_units(node.op) || node.op == Op::kGate) out = {sets.add(), 1};
    if (node.op == Op::kFlatten) out.repeat *= node.in.pixels();
    if (node.gate != kNone) sets.join(out.set, channels_of(node.gate).set);
    if (node.residual != kNone) sets.join(out.set, channels_of(node.residual).set);
    values.push_back(out);
  }
  sets.join(values.back().set, whole);
  if (graph.features != kNone) sets.join(channels_of(graph.features).set, whole);

  std::vector<UnitGroup> groups;
  std::vector<int> group_of(sets.size(), kNone);
  const auto name_units = [&](int tensor, int axis, Channels channels, int64_t blocks = 1) {
    if (tensor == kNone || sets.find(channels.set) == sets.find(whole)) return;
    const int group = group_of[sets.find(channels.set)];
    tensors[static_cast<size_t>(tensor)].units.push_back(
        {.axis = axis, .group = group, .blocks = blocks, .repeat = channels.repeat});
  };
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    const size_t set = sets.find(values[i].set);
    if (computes_units(node.op) && set != sets.find(whole) && group_of[set] == kNone) {
      group_of[set] = static_cast<int>(groups.size());
      groups.push_back(
          {group_name(node, tensors[static_cast<size_t>(node.weight)].name), node.out.channels});
    }
  }
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    const Channels in = channels_of(node.input), out = values[i];
    if (node.op == Op::kEmbedding) {  // a row per token
      name_units(node.weight, 1, out);
      continue;
    }
    const int64_t blocks = node.op == Op::kLstm ? 4 : 1;  // gates
    name_units(node.weight, 0, out, blocks);
    if (node.op == Op::kLstm) {
      name_units(node.weight, 1, in);
      name_units(node.recurrent, 0, out, blocks);
      name_units(node.recurrent, 1, out);
      name_units(node.recurrent_bias, 0, out, blocks);
    }
    if (node.op == Op::kConv || node.op == Op::kLinear || node.op == Op::kGate) {
      const int64_t pixels = node.op == Op::kLinear ? node.in.pixels() : 1;
      name_units(node.weight, 1, {in.set, in.repeat * pixels});
    }
    for (const int tensor : {node.bias, node.mean, node.variance})
      name_units(tensor, 0, out, blocks);
  }
  return groups;
}

Graph narrow(const Graph& graph, std::span<const int64_t> units) {
  Graph out = graph;
  out.layout = narrow_layout(*graph.layout, units);
  out.macs = 0;
  const auto& tensors = out.layout->tensors();
  const auto output = [&](int node) {
    return node == kGraphInput ? out.input : out.nodes[static_cast<size_t>(node)].out;
  };
  for (Node& node : out.nodes) {
    node.in = output(node.input);
    const auto extent = [&](size_t axis) {
      return tensors[static_cast<size_t>(node.weight)].shape[axis];
    };
    switch (node.op) {
      case Op::kConv:
      case Op::kLinear: {
        const auto& shape = tensors[static_cast<size_t>(node.weight)].shape;
        const int64_t fan_in =
            std::accumulate(shape.begin() + 1, shape.end(), int64_t{1}, std::multiplies<int64_t>());
        node.out.channels = extent(0);
        ESPALIER_CHECK(node.op == Op::kLinear ? fan_in == node.in.size()
                                              : extent(1) == node.in.channels);
        Init& init = out.init[static_cast<size_t>(node.weight)];
        const bool he = init.kind == Init::kNormal;
        init = he ? he_init(fan_in) : uniform_init(fan_in);
        if (node.bias != kNone && !he) out.init[static_cast<size_t>(node.bias)] = init;
        break;
      }
      case Op::kGate: {
        const int64_t fan_in = extent(1);
        node.out.channels = extent(0);
        ESPALIER_CHECK(fan_in == node.in.channels);
        out.init[static_cast<size_t>(node.weight)] = he_init(fan_in);
        break;
      }
      case Op::kScale:
      case Op::kMaxPool:
      case Op::kGlobalAverage:
        node.out.channels = node.in.channels;
        break;
      case Op::kBatchNorm:
      case Op::kGroupNorm:
        node.out.channels = node.in.channels;
        if (node.op == Op::kGroupNorm) node.groups = norm_groups(node.in.channels);
        break;
      case Op::kFlatten:
        node.out.channels = node.in.size();
        break;
      case Op::kEmbedding:
        node.out.channels = extent(1);
        break;
      case Op::kLstm: {
        const int64_t hidden = node.out.channels = extent(0) / 4;
        ESPALIER_CHECK(extent(1) == node.in.channels);
        for (const int tensor : {node.weight, node.recurrent, node.bias, node.recurrent_bias})
          out.init[static_cast<size_t>(tensor)] = uniform_init(hidden);
        break;
      }
    }
    out.macs += node_macs(node);
  }
  return out;
}

}  // namespace espalier::nn

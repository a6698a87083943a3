#include <numeric>

#include "espalier/train/graph.h"

namespace espalier::train {
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
    if (node.op == Op::kConv || node.op == Op::kLinear) out = {sets.add(), 1};
    if (node.op == Op::kGate) out = {sets.add(), 1};
    if (node.op == Op::kFlatten) out.repeat *= node.in.pixels();
    if (node.gate != kNone) sets.join(out.set, channels_of(node.gate).set);
    if (node.residual != kNone) sets.join(out.set, channels_of(node.residual).set);
    values.push_back(out);
  }
  sets.join(values.back().set, whole);
  if (graph.features != kNone) sets.join(channels_of(graph.features).set, whole);

  std::vector<UnitGroup> groups;
  std::vector<int> group_of(sets.size(), kNone);
  const auto name_units = [&](int tensor, int axis, Channels channels) {
    if (tensor == kNone || sets.find(channels.set) == sets.find(whole)) return;
    const int group = group_of[sets.find(channels.set)];
    tensors[static_cast<size_t>(tensor)].units.push_back(
        {.axis = axis, .group = group, .repeat = channels.repeat});
  };
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    const size_t set = sets.find(values[i].set);
    if ((node.op == Op::kConv || node.op == Op::kLinear) && set != sets.find(whole) &&
        group_of[set] == kNone) {
      group_of[set] = static_cast<int>(groups.size());
      const std::string& weight = tensors[static_cast<size_t>(node.weight)].name;
      groups.push_back({weight.substr(0, weight.rfind('.')), node.out.channels});
    }
  }
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    const Channels in = channels_of(node.input), out = values[i];
    name_units(node.weight, 0, out);
    if (node.op == Op::kConv || node.op == Op::kLinear || node.op == Op::kGate) {
      const int64_t pixels = node.op == Op::kLinear ? node.in.pixels() : 1;
      name_units(node.weight, 1, {in.set, in.repeat * pixels});
    }
    for (const int tensor : {node.bias, node.mean, node.variance}) name_units(tensor, 0, out);
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
        out.macs += static_cast<uint64_t>(node.out.size() * fan_in);
        break;
      }
      case Op::kGate: {
        const int64_t fan_in = extent(1);
        node.out.channels = extent(0);
        ESPALIER_CHECK(fan_in == node.in.channels);
        out.init[static_cast<size_t>(node.weight)] = he_init(fan_in);
        out.macs += static_cast<uint64_t>(node.out.channels * fan_in);
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
    }
  }
  return out;
}

}  // namespace espalier::train

#include "espalier/nn/gates.h"

#include <algorithm>
#include <cmath>

namespace espalier::nn {
namespace {

constexpr int64_t kMillion = 1000000;

}  // namespace

bool has_gates(const ParameterLayout& layout) { return layout.find(kGateRatio) != nullptr; }

std::optional<double> gate_ratio(const ParameterSet& weights) {
  if (!has_gates(weights.layout())) return std::nullopt;
  return static_cast<double>(weights.values(kGateRatio)[0]) / kMillion;
}

void set_gate_ratio(ParameterSet& weights, double ratio) {
  if (!has_gates(weights.layout()))
    fail("train/gates", "this model has no gates; set model.gates to \"gated\" or \"fbs\"");
  if (!(ratio > 0 && ratio <= 1))
    fail("train/gates", "expected a ratio above 0 and at most 1, got ", ratio);
  weights.values(kGateRatio)[0] = static_cast<float>(std::max(1LL, std::llround(ratio * kMillion)));
}

int64_t salient_channels(float ratio_ppm, int64_t channels) {
  if (!(ratio_ppm < static_cast<float>(kMillion))) return channels;
  const int64_t parts = std::max<int64_t>(1, std::llround(ratio_ppm));
  return std::clamp<int64_t>((parts * channels + kMillion / 2) / kMillion, 1, channels);
}

std::vector<GatedConv> gated_convs(const Graph& graph) {
  std::vector<GatedConv> out;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& apply = graph.nodes[i];
    if (apply.gate == kNone) continue;
    int conv = apply.input;
    while (graph.nodes[static_cast<size_t>(conv)].op == Op::kMaxPool)
      conv = graph.nodes[static_cast<size_t>(conv)].input;
    out.push_back({conv, apply.gate, static_cast<int>(i)});
  }
  return out;
}

}  // namespace espalier::nn

#include "bench/floors.h"

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier::bench {

using nn::Node;
using nn::Op;

Json to_json(const Peaks& peaks) {
  Json levels = Json::array();
  for (const MemoryLevel& level : peaks.levels) {
    levels.push_back({{"name", level.name},
                      {"bytes", level.bytes},
                      {"bytes_per_second", level.bytes_per_second}});
  }
  return {{"threads", peaks.threads}, {"fp32_macs_per_second", peaks.fp32_macs_per_second},
          {"fp32_by", peaks.fp32_by}, {"bf16_macs_per_second", peaks.bf16_macs_per_second},
          {"bf16_by", peaks.bf16_by}, {"levels", levels}};
}

Floor floor_of(const Work& work, const Peaks& peaks) {
  ESPALIER_CHECK(!peaks.levels.empty());
  Floor floor;
  if (work.fp32_macs > 0)
    floor.arithmetic_seconds += static_cast<double>(work.fp32_macs) / peaks.fp32_macs_per_second;
  if (work.bf16_macs > 0)
    floor.arithmetic_seconds += static_cast<double>(work.bf16_macs) / peaks.bf16_macs_per_second;
  const auto holds = [&](const MemoryLevel& level) {
    return level.bytes == 0 || work.working_set <= level.bytes;
  };
  const auto found = std::find_if(peaks.levels.begin(), peaks.levels.end(), holds);
  const MemoryLevel& level = found == peaks.levels.end() ? peaks.levels.back() : *found;
  floor.memory_seconds = static_cast<double>(work.bytes) / level.bytes_per_second;
  floor.level = level.name;
  return floor;
}

const char* part_name(Part part) {
  switch (part) {
    case Part::kForward:
      return "forward";
    case Part::kData:
      return "backward-data";
    case Part::kParameters:
      return "backward-weights";
    case Part::kBackward:
      return "backward";
    case Part::kUpdate:
      return "update";
  }
  return "";
}

namespace {

uint64_t values_of(const ParameterLayout& layout, int tensor) {
  return tensor < 0 ? 0 : static_cast<uint64_t>(layout.tensors()[static_cast<size_t>(tensor)].size);
}

// Bytes of a node's parameters: all that are trained, and of them those whose update is fused.
struct ParameterBytes {
  uint64_t all = 0, fused = 0;
  uint64_t gradients() const { return all - fused; }
};
ParameterBytes parameter_bytes(const Node& node, const ParameterLayout& layout, bool fused) {
  ParameterBytes bytes;
  for (const int tensor : {node.weight, node.bias, node.recurrent, node.recurrent_bias})
    bytes.all += 4 * values_of(layout, tensor);
  if (fused) bytes.fused = 4 * (values_of(layout, node.weight) + values_of(layout, node.recurrent));
  return bytes;
}

uint64_t& products(Work& work, const LayerFacts& facts, bool forward) {
  const nn::Type type = forward ? facts.forward_products : facts.backward_products;
  return type == nn::Type::kBf16 ? work.bf16_macs : work.fp32_macs;
}

}  // namespace

Work layer_work(const Node& node, const ParameterLayout& layout, const LayerFacts& facts,
                Part part) {
  const auto batch = static_cast<uint64_t>(facts.batch);
  const bool tokens = node.op == Op::kEmbedding;
  const uint64_t x = batch * static_cast<uint64_t>(node.in.size()) *
                     (tokens ? sizeof(int64_t) : nn::type_bytes(facts.in));
  const uint64_t y = batch * static_cast<uint64_t>(node.out.size()) * nn::type_bytes(facts.out);
  const uint64_t dy = facts.dy_values * nn::type_bytes(facts.out), dx = facts.has_dx ? x : 0;
  const ParameterBytes parameters = parameter_bytes(node, layout, facts.fused);
  // The rows that are looked up are as many values as come out.
  const uint64_t read = tokens ? y : parameters.all;
  Work work;
  uint64_t macs = 0;
  switch (part) {
    case Part::kForward:
      macs = facts.forward_macs;
      work.bytes = x + read + y + (node.residual >= 0 ? y : 0);
      work.working_set = work.bytes;
      break;
    case Part::kData:
      ESPALIER_CHECK(facts.has_dx);
      macs = facts.backward_macs / 2;
      work.bytes = dy + parameters.all + dx;
      work.working_set = work.bytes;
      break;
    case Part::kParameters:
      macs = facts.has_dx ? facts.backward_macs / 2 : facts.backward_macs;
      work.bytes = x + dy + parameters.gradients() + 2 * parameters.fused;
      work.working_set = x + dy + parameters.all;
      break;
    case Part::kBackward:
      macs = facts.backward_macs;
      if (facts.in_place && parameters.all == 0) break;
      // Without parameters the input need not be seen again.
      work.bytes = dy + dx + (parameters.all > 0 && !tokens ? x + parameters.all : 0) +
                   parameters.gradients() + parameters.fused;
      work.working_set = dy + dx + (parameters.all > 0 && !tokens ? x + parameters.all : 0) +
                         parameters.gradients();
      break;
    case Part::kUpdate:
      work.bytes = 3 * parameters.gradients();
      work.working_set = 2 * parameters.gradients();
      break;
  }
  products(work, facts, part == Part::kForward) = macs;
  return work;
}

Work step_work(const nn::Graph& graph, const std::vector<LayerFacts>& facts) {
  ESPALIER_CHECK(facts.size() == graph.nodes.size());
  Work work;
  uint64_t kept = static_cast<uint64_t>(facts.front().batch * graph.input.size()) *
                  (graph.tokens ? sizeof(int64_t) : nn::type_bytes(facts.front().in));
  uint64_t gradients = 0;
  for (size_t i = 0; i < facts.size(); ++i) {
    const Node& node = graph.nodes[i];
    const LayerFacts& fact = facts[i];
    const ParameterBytes parameters = parameter_bytes(node, *graph.layout, fact.fused);
    products(work, fact, true) += fact.forward_macs;
    products(work, fact, false) += fact.backward_macs;
    kept += parameters.all + parameters.gradients() +
            static_cast<uint64_t>(fact.batch * node.out.size()) * nn::type_bytes(fact.out);
    if (!fact.in_place) gradients += fact.dy_values * nn::type_bytes(fact.out);
  }
  work.bytes = 2 * (kept + gradients);
  work.working_set = kept;
  return work;
}

}  // namespace espalier::bench

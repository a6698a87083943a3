#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/nn/layer.h"

// The least time that work can take on a machine, whoever writes the program:
//
//   arithmetic  products as executed / products per second of a loop that does nothing else
//   memory      bytes that must move, each read and each write counted once / bytes per second of
//               the smallest level of memory that holds what is worked on
//
// and the larger of the two. Products are counted in the precision that computes them: what a
// bf16 net computes in fp32 is held to the fp32 peak.
namespace espalier::bench {

// A level of memory, and what the best of a few simple loops moves in it.
struct MemoryLevel {
  std::string name;
  uint64_t bytes = 0;  // that stay in it; 0: as many as there are
  double bytes_per_second = 0;
};

// What a machine can do at best; peaks.h measures it.
struct Peaks {
  size_t threads = 1;  // that the figures are the sum of
  double fp32_macs_per_second = 0, bf16_macs_per_second = 0;
  std::string fp32_by, bf16_by;     // with which instructions
  std::vector<MemoryLevel> levels;  // at least one, the smallest first; the last holds everything
};
Json to_json(const Peaks& peaks);

struct Work {
  uint64_t fp32_macs = 0, bf16_macs = 0;
  uint64_t bytes = 0;        // every read and every write of a value
  uint64_t working_set = 0;  // bytes in which that happens
};

struct Floor {
  double arithmetic_seconds = 0, memory_seconds = 0;
  std::string level;  // of memory
  double seconds() const { return std::max(arithmetic_seconds, memory_seconds); }
  bool by_memory() const { return memory_seconds > arithmetic_seconds; }
};
Floor floor_of(const Work& work, const Peaks& peaks);

// Parts of a training step at a layer. Convolutions and linear layers compute the gradients of
// their input and of their parameters one after the other; of others, and of those that do both at
// once, there is one backward pass. A layer without a gradient of its input has no kData.
enum class Part : uint8_t { kForward, kData, kParameters, kBackward, kUpdate };
const char* part_name(Part part);

// What a layer has done in a step.
struct LayerFacts {
  nn::Type in = nn::Type::kFloat, out = nn::Type::kFloat;
  int64_t batch = 0;
  uint64_t forward_macs = 0, backward_macs = 0;  // as executed
  bool has_dx = false;                           // computes the gradient of its input
  bool in_place = false;  // which replaces that of its output: nothing has to move
  bool fused = false;     // the update of the weight is part of its gradient
  nn::Type forward_products = nn::Type::kFloat, backward_products = nn::Type::kFloat;
  // Values of the gradient that it is given; fewer than the output's behind a pooling that hands
  // on its own.
  uint64_t dy_values = 0;
};

// Products of a part, and bytes as said for each:
//   forward      reads input, residual and parameters, writes the output
//   data         reads the output's gradient and the weights, writes the input's gradient
//   parameters   reads input and output's gradient, writes the parameters' gradients; fused, it
//                reads and writes the weight instead of writing its gradient
//   backward     what data and parameters do, each buffer once
//   update       of what is not fused: reads weights and gradients, writes weights (plain SGD)
// An embedding reads the rows that the tokens name alone.
Work layer_work(const nn::Node& node, const ParameterLayout& layout, const LayerFacts& facts,
                Part part);

// A whole step: the products of all layers; weights, gradients (of weights that are not fused, and
// of outputs), the input and all outputs read and written once, in a working set of what must be
// there at the loss: weights, gradients of weights, input and outputs. facts: one per node.
Work step_work(const nn::Graph& graph, const std::vector<LayerFacts>& facts);

}  // namespace espalier::bench

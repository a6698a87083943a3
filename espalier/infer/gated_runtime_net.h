#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "espalier/infer/sparse_infer.h"
#include "espalier/nn/graph.h"

// Runs a Graph on one sample at a time, in evaluation mode and on one core, and computes only what
// the sample's gates (gates.h) leave: closed output channels of a convolution are not computed, and
// input channels of zeros (closed ones, and those that a ReLU left nothing of) are not read. The
// weights are copied once, into large pages where the system has them; normalizations by running
// statistics are folded into the convolutions in front.
//
// What is skipped changes no bit: with Arithmetic::kMasked everything is computed and closed
// channels are multiplied by 0, and the logits are the same floats. The training engine's
// (graph_net.h) differ by rounding, so that two gates that are equal up to rounding may be ranked
// otherwise there.
//
// Not thread-safe.
namespace espalier::infer {

// Runtimes read the engine's graphs.
using namespace nn;

enum class Arithmetic : uint8_t { kSkipping, kMasked };

// Float storage aligned to, and where the system allows made of, pages of 2 MiB: a net's weights
// are read once per sample, and small pages cost a table walk every few rows.
class LargePages {
 public:
  explicit LargePages(size_t size);
  float* data() { return values_.get(); }

 private:
  struct Free {
    void operator()(float* values) const;
  };
  std::unique_ptr<float[], Free> values_;
};

class GatedNet {
 public:
  // Throws Error when the weights are not of the graph's layout.
  GatedNet(Graph graph, const ParameterSet& weights);

  const Graph& graph() const { return graph_; }
  size_t num_logits() const { return static_cast<size_t>(graph_.nodes.back().out.size()); }

  // `sample`: height × width × channels floats; `logits`: num_logits(). Returns the
  // multiply-accumulates executed: kept outputs × inputs read × taps × pixels of convolutions,
  // inputs read × channels of gates, and those of linear layers.
  uint64_t run(std::span<const float> sample, Arithmetic arithmetic, std::span<float> logits);

 private:
  // A node's output, or the sample.
  struct Value {
    size_t channels = 0, pixels = 1;
    bool vector = false;       // `channels` floats in a row instead of planes
    bool nonnegative = false;  // a ReLU stands behind it
    float* data = nullptr;
    std::vector<uint32_t> kept;  // channels that may hold something else than zeros, ascending
    size_t plane() const { return vector ? 1 : plane_size(pixels); }
  };
  struct Gate {
    const float* columns = nullptr;  // A, one input channel behind the other
    // b; with the sigmoid also ½·Σ A, for then columns multiply sigmoid(mean) − ½, which is 0 for a
    // channel of zeros.
    std::vector<float> bias;
    size_t survivors = 0;
    // Of the last sample.
    std::vector<float> means, values;
    std::vector<uint32_t> inputs, kept;  // channels read, channels whose value is above 0
  };
  struct Step {
    Op op = Op::kConv;
    int node = 0, input = 0, target = 0;  // target: the node whose value it makes
    int gate = kNone, residual = kNone;
    bool relu = false;
    const float* weights = nullptr;
    // y = g·(scale·sum + shift) + late, where late counts for open channels only. Linear layers
    // have their bias in `shift`.
    std::vector<float> scale = {}, shift = {}, late = {};
    // Convolutions.
    std::shared_ptr<const SparsePlan> plan = nullptr;
    float* unfolded = nullptr;
    bool scaled = true;  // false: the gate only says what is needed, a normalization behind applies
    size_t group = 1;    // channels that must be computed together, for such a normalization
    // Of the last sample.
    std::vector<float> now_scale = {}, now_shift = {};
    std::vector<uint32_t> outputs = {};
  };

  // gated_runtime_build.cpp
  void build(const ParameterSet& weights);
  Step conv_step(int node, const ParameterSet& weights);
  Step norm_step(int node, const ParameterSet& weights);
  Gate make_gate(const Node& node, const ParameterSet& weights);
  // What stands behind a convolution becomes part of it where it is its only reader.
  void fold(Step& step, const ParameterSet& weights);
  int only_reader(int node) const;
  void place_values();
  void place_unfolded();
  const float* store(std::span<const float> values);

  int resolve(int node) const { return node < 0 ? node : alias_[static_cast<size_t>(node)]; }
  Value& value(int node) { return values_[static_cast<size_t>(resolve(node) + 1)]; }
  const Node& node(int i) const { return graph_.nodes[static_cast<size_t>(i)]; }

  void read_sample(std::span<const float> sample);
  uint64_t run_gate(const Step& step, Arithmetic arithmetic);
  uint64_t run_conv(Step& step, Arithmetic arithmetic);
  void run_norm(Step& step, Arithmetic arithmetic);
  void run_pool(const Step& step);
  void run_vector(const Step& step);
  uint64_t run_linear(const Step& step);
  // scale and shift of the channels under this sample's gate.
  void scale_channels(Step& step, Arithmetic arithmetic);
  // What a residual adds to channels that are not computed.
  void pass_residual(const Step& step, std::span<const uint32_t> computed);
  // Writes zeros where a channel that is not kept stands.
  void complete(Value& value);

  Graph graph_;
  std::vector<Step> steps_;
  std::map<int, Gate> gates_;
  std::vector<Value> values_;  // the sample's first
  std::vector<int> alias_;     // the node whose value is also this one's
  std::unique_ptr<LargePages> pages_;
  size_t stored_ = 0;
  AlignedVector<float> activations_;
  std::vector<AlignedVector<float>> unfolded_;
  std::vector<float> ranks_;
};

}  // namespace espalier::infer

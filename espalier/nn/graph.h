#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/params/parameter_set.h"

// A net as data: nodes in order of execution, their shapes, the layout of their
// parameters and how these are drawn. The same Graph is run by the explicit engine (graph_net) and,
// under autograd, by libtorch (torch_net), which is the engine's reference in the tests and the way
// to other devices.
namespace espalier::nn {

// Channels, height and width of one sample. A vector of n features is {n, 1, 1}, a sequence of T
// steps {n, 1, T}.
struct Shape {
  int64_t channels = 0, height = 1, width = 1;
  int64_t size() const { return channels * height * width; }
  int64_t pixels() const { return height * width; }
  friend bool operator==(const Shape&, const Shape&) = default;
};

enum class Op : uint8_t {
  kConv,  // 2-D, square kernel, with or without bias
  kLinear,
  kMaxPool,        // square window, no padding; what does not fill a window is dropped
  kBatchNorm,      // over batch and pixels; relu(norm(x) + residual)
  kGroupNorm,      // over the pixels of groups of channels; same form
  kGlobalAverage,  // mean over the pixels
  kFlatten,        // to a vector in PyTorch's order: channels, height, width
  kGate,           // judges a convolution's channels from its input (gates.h): {channels, 1, 1}
  kScale,          // a gate's values times the channels, without a normalization (gates.h)
  kEmbedding,      // tokens, the graph's input, to a sequence of rows of the weight
  kLstm,           // a sequence to that of an LSTM's hidden states, from a state of zeros
};

inline constexpr int kGraphInput = -1;  // as Node::input: the batch itself
inline constexpr int kNone = -2;

struct Node {
  Op op;
  int input = kGraphInput;  // index of the node whose output it reads
  int residual = kNone;     // normalizations: the node whose output is added before the ReLU
  int gate = kNone;         // normalizations and kScale: the kGate node that scales the channels
  bool relu = false;
  Shape in{}, out{};
  int64_t kernel = 0, stride = 1, padding = 0, groups = 1;
  bool sigmoid = false;  // kGate: of the spatial means
  double penalty = 0;    // kGate: weight of the L1 penalty on what survives, mean over the batch
  bool last = false;     // kLstm: gives the last step's hidden state alone, as a vector
  // Indices into the layout's tensors, or kNone. A gated normalization without a weight is that of
  // mode "fbs", a kScale with a bias likewise; a kGate's counter is kGateRatio.
  int weight = kNone, bias = kNone, mean = kNone, variance = kNone, counter = kNone;
  int recurrent = kNone, recurrent_bias = kNone;  // kLstm: what the hidden state meets
};

// How a tensor starts.
struct Init {
  enum Kind : uint8_t { kConstant, kUniform, kNormal } kind = kConstant;
  double value = 0;  // the constant, the bound of U(−value, value), or the standard deviation
};

struct Graph {
  Shape input;
  // The input is token ids instead of values. Such graphs train in fp32 alone.
  bool tokens = false;
  std::vector<Node> nodes;  // the last one's output is the logits
  std::shared_ptr<const ParameterLayout> layout;
  std::vector<Init> init;  // one per tensor
  uint64_t macs = 0;       // of one sample's forward pass: all but elementwise
  // The node whose output is the feature map, when the model is one that can be cut in two: no node
  // behind it reads one before it. Its channels are whole: they belong to no unit group.
  int features = kNone;
};

// The same net with units[g] units in group g of its layout: shapes, parameters and products are
// those of the smaller net, and fresh weights are drawn for its sizes. A group normalization forms
// its groups anew. Throws Error when `units` does not fit the layout's groups.
Graph narrow(const Graph& graph, std::span<const int64_t> units);

// Multiply-accumulates of a node's forward pass for one sample; 0 for elementwise ones.
uint64_t node_macs(const Node& node);
// Whether the gradient of each node's output is needed: something trainable stands before it or in
// it.
std::vector<bool> needed_gradients(const Graph& graph);
// Multiply-accumulates of one sample's training pass where every layer computes all of its
// gradients densely, as libtorch does: forward, the weights' gradients, and the inputs' where
// something trainable stands before. (GraphNet skips what pooling throws away, and counts as it
// goes.)
uint64_t dense_training_macs(const Graph& graph);

inline constexpr float kNormEpsilon = 1e-5f;
inline constexpr float kNormMomentum = 0.1f;  // weight of the batch in the running statistics

// Draws every tensor from its own stream under `key`.
void draw_parameters(const std::vector<Init>& init, Key key, ParameterSet& out);

// How a layer's weights and biases start: kaiming_uniform with a = √5, which is
// U(−1/√fan_in, 1/√fan_in).
Init uniform_init(int64_t fan_in);
// N(0, 2/fan_in), which keeps a deep net of ReLUs without normalization trainable (He et al. 2015).
Init he_init(int64_t fan_in);
// Groups of a group normalization: eight channels each, or the largest smaller number that divides
// the channels.
int64_t norm_groups(int64_t channels);
// The tensors of a node, as indices into the layout's; those it does not have are kNone.
std::array<int, 7> tensors_of(const Node& node);
// Indices of the layout's tensors that compute the feature map, ascending; none without one.
std::vector<size_t> extractor_tensors(const Graph& graph);
// The unit groups of a graph; fills in the units of its tensors.
std::vector<UnitGroup> find_units(const Graph& graph, std::vector<ParameterInfo>& tensors);

// Builds a Graph front to back. Each function appends a node and returns its index. Parameters are
// named as PyTorch names those of a module called `name`, and start as PyTorch's modules do. Throws
// Error when a shape shrinks to nothing.
class GraphBuilder {
 public:
  GraphBuilder(std::string model, Shape input);

  struct Conv {
    int64_t channels, kernel, stride = 1, padding = 0;
    bool bias = true, relu = false;
    bool he = false;  // starts from N(0, 2/fan_in), biases from 0 (He et al. 2015)
  };
  int conv(const std::string& name, int from, const Conv& conv);
  int linear(const std::string& name, int from, int64_t features, bool relu);
  int max_pool(int from, int64_t window);
  // Gates for the convolutions that ask for one below. Without a call of this there are none.
  struct Gates {
    bool fbs = false;
    double ratio = 1;
    bool sigmoid = false;
    double l1 = 0;      // fbs
    bool open = false;  // start at g = 1 for every sample: A = 0, b = 1
  };
  void set_gates(const Gates& gates) { gates_ = gates; }
  // A gate for a convolution with this name, input and number of output channels, to be handed to
  // the normalization behind it; kNone, and no node, without gates.
  int gate(const std::string& conv, int from, int64_t channels);
  // A convolution with ReLU and a gate, then a max-pooling when `window` is not 0.
  int gated_conv(const std::string& name, int from, Conv conv, int64_t window);
  struct Norm {
    bool group = false, relu = true;
    int residual = kNone;
    int gate = kNone;
  };
  int norm(const std::string& name, int from, const Norm& norm);
  int global_average(int from);
  int flatten(int from);
  // Reads the graph's input, which becomes tokens.
  int embedding(const std::string& name, int64_t vocabulary, int64_t features);
  struct Lstm {
    int64_t units;
    int64_t layer = 0;  // which of the layers that share the name
    bool last = false;
  };
  int lstm(const std::string& name, int from, const Lstm& lstm);

  // Cuts the model behind the last node: its output is the feature map.
  void mark_features() { graph_.features = static_cast<int>(graph_.nodes.size()) - 1; }

  const Shape& shape(int node) const;
  // Also works out the unit groups: each hidden layer with a weight computes units of its own,
  // and layers whose outputs are added share one group. Inputs and logits belong to none.
  Graph finish() &&;

 private:
  int add(Node node);
  int tensor(const std::string& name, std::vector<int64_t> shape, Role role, Init init);

  std::string model_;
  std::optional<Gates> gates_;
  Graph graph_;
  std::vector<ParameterInfo> tensors_;
};

}  // namespace espalier::nn

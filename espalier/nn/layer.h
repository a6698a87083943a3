#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>

#include "espalier/nn/graph.h"
#include "espalier/nn/kernels.h"
#include "espalier/nn/net.h"

// A node of a Graph made ready for one batch size. Layers own no activations: everything lives in
// one arena whose places the plan (net_plan.h) assigns, so that a replica's memory is one block
// that is used again for every client.
namespace espalier::nn {

// Element type of an activation and of its gradient.
enum class Type : uint8_t { kFloat, kBf16 };
constexpr size_t type_bytes(Type type) { return type == Type::kFloat ? 4 : 2; }
// Calls body with a value of the C++ type that stands for `type`, which a generic lambda takes its
// decltype of.
template <class Body>
void by_type(Type type, Body body) {
  if (type == Type::kFloat) {
    body(float{});
  } else {
    body(Bf16{});
  }
}

// Byte offsets into the arena.
inline constexpr size_t kNoSlot = std::numeric_limits<size_t>::max();
struct Slots {
  size_t x = kNoSlot, y = kNoSlot, residual = kNoSlot;
  size_t dy = kNoSlot;       // gradient of y; may be overwritten by backward()
  size_t more_dy = kNoSlot;  // normalizations: a second part of it, of y's other reader
  // A gate's business (gates.h), all fp32. gate, dgate: values and gradient of the gate that scales
  // this layer's output, batch × channels. even: what the gate that reads y adds to y's gradient at
  // every pixel, batch × channels. means: y's spatial means, which that gate wants, batch ×
  // channels; for the gate itself those of its input, which it must find when it has no x.
  size_t gate = kNoSlot, dgate = kNoSlot, even = kNoSlot, means = kNoSlot;
  size_t dx = kNoSlot;       // kNoSlot: not wanted. May equal dy when backward_in_place()
  size_t saved = kNoSlot;    // saved_bytes(), kept from forward to backward
  size_t scratch = kNoSlot;  // scratch_bytes(), only during one call
  // sparse_backward() convolutions: the pooled values and positions; dy is then the gradient of the
  // pooled values.
  size_t pooled = kNoSlot, argmax = kNoSlot;
  size_t prepared = kNoSlot;  // prepared_bytes(), from prepare() to the last forward() of a batch
};

class Layer;
enum class Pass : uint8_t { kForward, kBackward };

// Watches a net's layers at work, for measuring; called by the thread that works.
class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  // Node `index` of the graph begins a pass.
  virtual void begin(size_t index, Pass pass) = 0;
  // In the backward pass of a convolution or a linear layer that computes the gradients of its
  // input and of its parameters one after the other: the second begins.
  virtual void parameters() = 0;
  virtual void end(size_t index, const Layer& layer) = 0;
};

// One pass over a batch.
struct Frame {
  uint8_t* arena = nullptr;
  float* weights = nullptr;    // whole flat buffers
  float* gradients = nullptr;  // null in evaluation
  const SgdUpdate* update = nullptr;
  LayerObserver* observer = nullptr;

  // Where the weights before the step are, for layers that read them elsewhere.
  const float* weights_before() const {
    return update != nullptr && update->from != nullptr ? update->from : weights;
  }
  // LayerObserver::parameters(), for the layer to say.
  void parameters_begin() const {
    if (observer != nullptr) observer->parameters();
  }
  template <class T>
  T* at(size_t slot) const {
    return slot == kNoSlot ? nullptr : reinterpret_cast<T*>(arena + slot);
  }
};

// What a layer is made for.
struct LayerContext {
  const Node& node;
  const ParameterLayout& layout;
  int64_t batch;
  bool training;
  Type in, out;
  Type net = Type::kFloat;  // which the net computes in where it can
  // A convolution and the max-pooling that alone reads it know of each other: the pooling does the
  // ReLU's backward pass, if there is one, or hands its own gradient on for the convolution to do
  // all three at once (sparse_backward). Null otherwise.
  const Node* pool = nullptr;
  const Node* front = nullptr;
  bool gate_reads = false;  // a gate reads this node's output
};

class Layer {
 public:
  virtual ~Layer() = default;
  Layer() = default;
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  virtual size_t saved_bytes() const { return 0; }
  virtual size_t scratch_bytes() const { return 0; }
  virtual bool backward_in_place() const { return false; }
  // Whether it writes slots.means; otherwise the gate takes the means itself.
  virtual bool gives_means() const { return false; }
  // Gates in training: what the last forward pass adds to the sum of the samples' losses.
  virtual double penalty() const { return 0; }
  // Multiply-accumulates of the last forward and backward pass over the whole batch, as executed;
  // what is done once per value is not counted.
  virtual uint64_t forward_macs() const { return 0; }
  virtual uint64_t backward_macs() const { return 0; }
  // Whether its weights may lie elsewhere before a step (Frame::weights_before).
  virtual bool reads_elsewhere() const { return false; }
  // Of the values that a pass multiplies; sums are float's.
  virtual Type product_type(Pass pass) const {
    static_cast<void>(pass);
    return Type::kFloat;
  }
  // Bytes of working memory outside the arena.
  virtual size_t owned_bytes() const { return 0; }

  // Without training a batch may pass in slices. What forward() makes of the weights is then made
  // once, by prepare(), where slots.prepared says; forward() makes it itself where that is kNoSlot.
  virtual size_t prepared_bytes() const { return 0; }
  virtual void prepare(const Frame& frame) { static_cast<void>(frame); }

  virtual void forward(const Frame& frame) = 0;
  // Normalizations without residual and gate, between forward() and backward(): writes the same y
  // again, to where slots.y is now.
  virtual void repeat(const Frame& frame) { static_cast<void>(frame); }
  // Writes the gradients of the layer's parameters (no accumulation) and dx.
  virtual void backward(const Frame& frame) = 0;

  Slots slots;
};

std::unique_ptr<Layer> make_conv_layer(const LayerContext& context);
std::unique_ptr<Layer> make_linear_layer(const LayerContext& context);
std::unique_ptr<Layer> make_pool_layer(const LayerContext& context);  // kMaxPool
std::unique_ptr<Layer> make_norm_layer(const LayerContext& context);  // kBatchNorm, kGroupNorm
// The same in nets with gates: scaled by one, or read by one.
std::unique_ptr<Layer> make_gated_norm_layer(const LayerContext& context);
std::unique_ptr<Layer> make_gate_layer(const LayerContext& context);
std::unique_ptr<Layer> make_scale_layer(const LayerContext& context);
std::unique_ptr<Layer> make_vector_layer(const LayerContext& context);  // kFlatten, kGlobalAverage
// Sequences (kEmbedding, kLstm) stand step by step: steps × batch × channels.
std::unique_ptr<Layer> make_embedding_layer(const LayerContext& context);
std::unique_ptr<Layer> make_lstm_layer(const LayerContext& context);
std::unique_ptr<Layer> make_layer(const LayerContext& context);  // by the node's Op

// Whether a convolution followed by `pool` takes its gradient from the pooled values
// (sparse_conv.h).
bool sparse_backward(const Node& conv, const Node& pool);

// Offset of a tensor of the layout, for addressing flat buffers.
inline size_t tensor_offset(const ParameterLayout& layout, int tensor) {
  return static_cast<size_t>(layout.tensors()[static_cast<size_t>(tensor)].offset);
}

}  // namespace espalier::nn

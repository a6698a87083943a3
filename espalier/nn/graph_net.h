#pragma once

#include <map>
#include <string>

#include "espalier/nn/graph.h"
#include "espalier/nn/layer.h"
#include "espalier/nn/net.h"
#include "espalier/nn/net_plan.h"

namespace espalier::nn {

// Whether this processor has what Type::kBf16 needs (AVX-512).
bool computes_bf16();

// The newest vector instructions that nets are computed with here: "sse4", "avx2", "avx512",
// "avx512-bf16" and so on. Nets that were trained with others differ in rounding, and so in bytes.
std::string instructions();

// The explicit engine: runs a Graph forward and backward without autograd. Every layer writes its
// parameters' gradients straight into the flat gradient buffer, and all activations live in one
// arena that every batch size shares. Where training would take more than a quarter of a gigabyte,
// normalizations that one convolution reads are computed a second time instead of being kept.
// Batches without training go through the layers in front of the last linear ones in slices that
// stay in cache; what a sample gives does not depend on them.
//
// With Type::kBf16 the activations, their gradients and the weights' working copies of convolutions
// are bf16; sums, statistics, weight gradients and vectors stay fp32. Large linear layers
// round what they multiply in small batches' training (dot_linear.h) and in every evaluation; the
// others work in fp32.
class GraphNet final : public Net {
 public:
  // Throws Error when the processor cannot do `type`. slice_bytes: what a layer of a slice may read
  // and write of activations; 0: half of a core's second-level cache, but no less than makes up for
  // reading the weights.
  GraphNet(Graph graph, Type type, size_t slice_bytes = 0);

  const std::shared_ptr<const ParameterLayout>& layout() const override { return graph_.layout; }
  uint64_t macs_per_sample() const override { return graph_.macs; }
  void initialize(Key key, ParameterSet& out) const override {
    draw_parameters(graph_.init, key, out);
  }
  BatchSums train(const Batch& batch, std::span<float> weights, std::span<float> gradients,
                  const SgdUpdate* update) override;
  bool reads_elsewhere() const override { return true; }
  std::vector<size_t> fused_tensors() const override;
  BatchSums evaluate(const Batch& batch, std::span<const float> weights) override;
  std::span<const float> forward_training(const Batch& batch, std::span<float> weights) override;
  std::span<const float> logits() const override { return logits_; }
  size_t num_logits() const override { return num_classes(); }
  void predict(const Batch& batch, std::span<const float> weights, std::span<float> features,
               std::span<float> logits) override;
  std::vector<int64_t> feature_shape() const override;
  std::vector<size_t> extractor_tensors() const override;
  // Is told of every layer of train() from now on, and outlives the net; null for nobody.
  void observe(LayerObserver* observer) { observer_ = observer; }
  // Of a node's output, or of kGraphInput.
  Type value_type(int node) const { return nn::value_type(graph_, type_, node); }
  // The arena and what the layers hold themselves: exact, but for oneDNN's generated code.
  uint64_t training_bytes(int64_t batch_size) const override;

 private:
  struct UsedPlan {
    NetPlan plan;
    uint64_t used = 0;  // when, for those used least lately to make room
  };
  NetPlan& plan(int64_t batch, bool training);
  NetPlan make_plan(int64_t batch, bool training) const;
  static void run_forward(NetPlan& plan, const Frame& frame);
  void copy_weights(const NetPlan& plan, const float* from, float* weights) const;
  void put_input(const NetPlan& plan, const Batch& batch, int64_t first, const Frame& frame);
  Frame start(const NetPlan& plan, const Batch& batch);
  void infer(NetPlan& plan, const Batch& batch, std::span<const float> weights,
             std::span<float> features, bool logits);
  const float* logits_of(const NetPlan& plan) const {
    return reinterpret_cast<const float*>(arena_.data() + plan.logits);
  }
  // The feature map as floats, channel by channel.
  void copy_features(const NetPlan& plan, const Frame& frame, int64_t batch,
                     std::span<float> out) const;
  size_t num_classes() const { return static_cast<size_t>(graph_.nodes.back().out.size()); }

  Graph graph_;
  Type type_;
  size_t slice_bytes_;
  std::map<std::pair<int64_t, bool>, UsedPlan> plans_;
  uint64_t clock_ = 0;
  AlignedVector<uint8_t> arena_;
  std::span<const float> logits_;
  LayerObserver* observer_ = nullptr;
};

}  // namespace espalier::nn

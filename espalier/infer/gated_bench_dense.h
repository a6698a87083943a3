#pragma once

#include <memory>
#include <span>

#include "espalier/nn/graph.h"

namespace espalier::infer {

using namespace nn;

// A baseline for gated_bench: one sample of a net without gates by oneDNN as one deploys it.
// Normalizations are folded into the convolutions, ReLU and residual are part of them, weights are
// brought into the primitives' own order once and stand in large pages, activations stay in the
// order that the convolutions choose.
class DenseNet {
 public:
  DenseNet(const Graph& graph, const ParameterSet& weights);
  ~DenseNet();
  // `sample`: channels-last, as GatedNet takes it.
  void run(std::span<const float> sample, std::span<float> logits);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::infer

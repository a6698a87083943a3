#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "espalier/infer/gated_runtime_net.h"
#include "espalier/nn/net.h"

// Inference with a gated model (gates.h) that takes the faster of two ways for each size of batch:
// sample by sample with what the gates close left out (GatedNet), or the whole batch at once with
// everything computed and closed channels multiplied by 0 (the training engine). The first batch of
// a size runs both ways, a few times each, and the faster one is kept for that size; the choice
// depends on the clock, the logits agree to rounding whichever is taken.
//
// Samples that share kept channels are not grouped: with survivors chosen per sample from dozens of
// channels hardly two samples share a layer's choice, let alone all layers'.
//
// Not thread-safe.
namespace espalier::infer {

class GatedRuntime {
 public:
  enum class Way : uint8_t { kSkipping, kWholeBatch };

  // Throws Error for a graph without gates, or when the weights are not of its layout.
  GatedRuntime(const Graph& graph, const ParameterSet& weights);

  size_t num_logits() const { return net_.num_logits(); }
  // `samples`: count × height × width × channels floats, `logits`: count × num_logits().
  // `macs`: the multiply-accumulates executed for each sample; empty: not wanted.
  void predict(std::span<const float> samples, std::span<float> logits, std::span<uint64_t> macs);
  // The same by the way asked for.
  void predict_by(Way way, std::span<const float> samples, std::span<float> logits,
                  std::span<uint64_t> macs);
  // Which way batches of `count` samples go: none have, before the first.
  const Way* way(int64_t count) const;

 private:
  GatedNet net_;
  std::unique_ptr<Net> engine_;
  const ParameterSet weights_;
  std::vector<int64_t> labels_;
  std::map<int64_t, Way> ways_;
};

}  // namespace espalier::infer

#pragma once

#include <memory>
#include <vector>

#include "espalier/nn/graph.h"
#include "espalier/nn/layer.h"

// What a GraphNet does with batches of one size: its layers, made ready for it, and the places of
// all their values in one arena.
namespace espalier::nn {

// Of a node's output, or of kGraphInput, in a net of type `net`.
Type value_type(const Graph& graph, Type net, int node);
size_t value_bytes(const Graph& graph, Type net, int node, int64_t batch);

struct NetPlan {
  int64_t batch = 0;
  // Without training a large batch goes through the first `sliced` layers in slices of `slice`
  // samples, which leave their outputs side by side at `joint`; otherwise there is one slice, of
  // all layers.
  int64_t slice = 0;
  size_t sliced = 0, joint = kNoSlot, joint_bytes = 0;  // bytes: of one sample
  std::vector<std::unique_ptr<Layer>> layers;
  // Normalized values that are computed again for the backward pass of `reader`, the convolution
  // that alone reads them, instead of being kept from the forward pass: there at `first`.
  struct Repeated {
    size_t norm, reader, first, again = kNoSlot;
  };
  std::vector<Repeated> repeated;  // ascending
  size_t input = kNoSlot;          // the batch, when it must be copied or converted
  size_t logits = kNoSlot, dlogits = kNoSlot;
  size_t arena_bytes = 0;

  int64_t slices() const { return (batch + slice - 1) / slice; }
};

// Normalizations are repeated where the arena would otherwise be large.
NetPlan plan_training(const Graph& graph, Type net, int64_t batch);
// slice_bytes: as GraphNet's.
NetPlan plan_evaluation(const Graph& graph, Type net, int64_t batch, size_t slice_bytes);

}  // namespace espalier::nn

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/params/parameter_set.h"
#include "espalier/train/trainer.h"

// What runs a model on a batch. The Trainer around it gathers the batches and owns the flat buffers
// and the optimizer.
namespace espalier::nn {

// The engine fulfils the contract of train and speaks its words.
using namespace train;

// `values` holds the samples channels-last (batch × height × width × channels, or batch ×
// features); models of token sequences read `tokens` (batch × length) instead.
struct Batch {
  int64_t size = 0;
  std::span<const float> values;
  std::span<const int64_t> tokens;
  std::span<const int64_t> labels;
  // Logits to distill from, batch × classes; empty: none. `taught`: one flag per sample, 0 for one
  // that has no teacher, whose row counts for nothing; empty: all have one.
  std::span<const float> teacher = {};
  std::span<const uint8_t> taught = {};
  // One flag per class: 0 keeps its logit out of the cross-entropy; empty: all count.
  std::span<const uint8_t> classes = {};
  LossOptions loss = {};
  // For what the net itself draws, and the batch's place in its fit. A net that remembers something
  // outside of its weights remembers nothing at place 0.
  Key key{0};
  uint64_t step = 0;
};

struct BatchSums {
  double loss = 0;  // sum over the samples, of all terms
  uint64_t correct = 0;
  uint64_t macs = 0;  // multiply-accumulates of the pass; train(): forward and backward
};

// w ← keep·w − rate·gradient, which a Net may apply itself to the tensors it says it fuses.
struct SgdUpdate {
  float rate = 0;
  float keep = 1;
  // The whole flat buffer of the weights before the step, where that is another one: they are read
  // there and all that `weights` should be is written. Null: `weights` has them.
  const float* from = nullptr;
};

// Not thread-safe.
class Net {
 public:
  virtual ~Net() = default;
  virtual const std::shared_ptr<const ParameterLayout>& layout() const = 0;
  virtual uint64_t macs_per_sample() const = 0;
  virtual void initialize(Key key, ParameterSet& out) const = 0;

  // One forward and backward pass in training mode. `gradients` receives the gradient of the
  // batch's mean loss for every trainable tensor (no zeroing is needed before); running statistics
  // and counters are updated in `weights`. With `update`, the tensors of fused_tensors() are
  // updated in `weights` at once and their part of `gradients` is left as it was.
  virtual BatchSums train(const Batch& batch, std::span<float> weights, std::span<float> gradients,
                          const SgdUpdate* update) = 0;
  // Whether it knows SgdUpdate::from.
  virtual bool reads_elsewhere() const { return false; }
  // Indices of the trainable tensors that the last train() has found no gradient for, because
  // nothing of the loss depends on them: theirs in `gradients` is 0, and no step changes them, as
  // PyTorch's optimizers leave out parameters without a gradient.
  virtual std::span<const size_t> untouched() const { return {}; }
  // Indices of the layout's tensors that train() updates when it is given an update.
  virtual std::vector<size_t> fused_tensors() const { return {}; }

  // The logits (batch × classes) of a forward pass in training mode, by the batch's statistics; the
  // running ones in `weights` are updated. Valid until the next pass of this net.
  virtual std::span<const float> forward_training(const Batch& batch, std::span<float> weights) = 0;

  // The same loss without training.
  virtual BatchSums evaluate(const Batch& batch, std::span<const float> weights) = 0;
  // The logits of the last batch evaluated: batch × classes.
  virtual std::span<const float> logits() const = 0;
  // How many a sample has: the classes of the data, or more.
  virtual size_t num_logits() const = 0;

  // Trainer::predict, with batch × num_logits() logits and a feature map per sample.
  virtual void predict(const Batch& batch, std::span<const float> weights,
                       std::span<float> features, std::span<float> logits) = 0;
  // Trainer::feature_shape and Trainer::extractor_tensors.
  virtual std::vector<int64_t> feature_shape() const { return {}; }
  virtual std::vector<size_t> extractor_tensors() const { return {}; }

  // Trainer::fixed and Trainer::opaque.
  virtual const FixedTensors& fixed() const {
    static const FixedTensors none;
    return none;
  }
  virtual bool opaque() const { return false; }

  // Bytes of the buffers, beyond weights and gradients, in which train() works at this batch size.
  virtual uint64_t training_bytes(int64_t batch_size) const = 0;
};

}  // namespace espalier::nn

#pragma once

#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "espalier/nn/net.h"
#include "espalier/nn/optimizer.h"
#include "espalier/params/coordinate_map.h"
#include "espalier/train/trainer.h"

namespace espalier::nn {

// The same model with units[g] units in group g of its layout.
using NarrowNet = std::function<std::unique_ptr<Net>(std::span<const int64_t> units)>;

// Trains a Net in the ways of SubmodelTraining; everything else goes to the Net itself.
//
// Nested widths (FjORD, Horváth et al. 2021). Each step draws a width uniformly from the list, from
// its key and number alone. The first units of every group are a smaller dense net of its own (the
// widths are nested, and the narrow step costs what the narrow net costs). Its gradient stands at
// the covered coordinates of the whole gradient, 0 at all others, and an optimizer steps over all
// of them, as it would over sliced weights in PyTorch: momentum and weight decay go on outside the
// width. Statistics of covered units are written back, those of others keep their bits. FjORD
// keeps batch-norm statistics per width; we keep one set, so that a narrow model is a part of the
// wide one.
//
// Self-distillation. The widest of the list goes first: its logits in training mode, without
// gradient and without touching the statistics, teach the drawn width with (1 − α)·CE + α·KD. When
// the widest itself is drawn there is nothing to distill: plain cross-entropy.
//
// Scaler (HeteroFL, Diao et al. 2021). Hidden outputs are multiplied by `scale` in training: all
// weights and biases of convolutions and linear layers whose output axis has units are, on a copy,
// and so are their gradients, which is the same function. HeteroFL divides by the keep ratio right
// behind the layer, before normalization and ReLU; so does this. An LSTM's gates are scaled before
// their nonlinearities, embeddings are not. Evaluation is unscaled, but running statistics gathered
// in training are those of scaled outputs: HeteroFL gathers none (static_statistics).
//
// Memory: one more net per width with its own activations, and a narrow copy of weights and
// gradients.
class NestedNet final : public Net {
 public:
  // `whole` must outlive this.
  NestedNet(Net& whole, NarrowNet narrow);

  // What the next steps do; widths no longer listed are forgotten. `classes`: flags for the masked
  // cross-entropy, read only with masked_cross_entropy. Throws Error when `training` does not fit
  // the model or is out of range.
  void start(const SubmodelTraining& training, std::span<const uint8_t> classes, Key key);
  // Whether train() hands an update on; otherwise it must be given none.
  bool can_fuse() const { return training_.widths.empty() && training_.scale == 1; }

  const std::shared_ptr<const ParameterLayout>& layout() const override { return whole_.layout(); }
  uint64_t macs_per_sample() const override { return whole_.macs_per_sample(); }
  void initialize(Key key, ParameterSet& out) const override { whole_.initialize(key, out); }
  std::vector<size_t> fused_tensors() const override { return whole_.fused_tensors(); }
  uint64_t training_bytes(int64_t batch_size) const override {
    return whole_.training_bytes(batch_size);
  }
  // The batch's own classes are replaced, and where a width is distilled, teacher and loss; the
  // products are those of the drawn width and of its teacher's forward pass.
  BatchSums train(const Batch& batch, std::span<float> weights, std::span<float> gradients,
                  const SgdUpdate* update) override;
  std::span<const float> forward_training(const Batch& batch, std::span<float> weights) override {
    return whole_.forward_training(batch, weights);
  }
  BatchSums evaluate(const Batch& batch, std::span<const float> weights) override {
    return whole_.evaluate(batch, weights);
  }
  std::span<const float> logits() const override { return whole_.logits(); }
  size_t num_logits() const override { return whole_.num_logits(); }
  void predict(const Batch& batch, std::span<const float> weights, std::span<float> features,
               std::span<float> logits) override {
    whole_.predict(batch, weights, features, logits);
  }

 private:
  struct Width {
    std::unique_ptr<Net> own;  // null: the whole net
    Net* net = nullptr;
    std::unique_ptr<CoordinateMap> map;                 // null: all coordinates
    std::vector<Segment> hidden;                        // of its buffer: what the scaler multiplies
    std::vector<std::pair<size_t, size_t>> statistics;  // places in its and in the whole buffer
  };
  Width make_width(const std::vector<int64_t>& units) const;
  // The width's weights, scaled, in work_.
  void take_weights(const Width& width, std::span<const float> weights);
  BatchSums train_copy(const Width& width, const Batch& batch, std::span<float> weights,
                       std::span<float> gradients);

  Net& whole_;
  NarrowNet narrow_;
  SubmodelTraining training_;
  std::vector<uint8_t> classes_;
  Key key_{0};
  uint64_t step_ = 0;
  std::map<std::vector<int64_t>, Width> widths_;  // by units; the whole net is always there
  std::vector<const Width*> drawn_from_;
  const Width* widest_ = nullptr;
  AlignedVector<float> work_, work_gradients_;
  std::vector<float> kept_statistics_;
};

}  // namespace espalier::nn

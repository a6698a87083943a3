#pragma once

#include <memory>
#include <vector>

#include "espalier/nn/nested_net.h"
#include "espalier/nn/net.h"
#include "espalier/nn/optimizer.h"
#include "espalier/train/trainer.h"

namespace espalier::nn {

// The Trainer: gathers batches, lets a Net compute, and steps the optimizer. Weights, gradients and
// the optimizer's state are one flat buffer each.
class FlatTrainer final : public Trainer {
 public:
  // `narrow` makes the nets of SubmodelTraining::widths. `init_file`: initial weights instead of
  // drawn ones; empty for none.
  FlatTrainer(std::unique_ptr<Net> net, const DataSpec& data, NarrowNet narrow,
              std::string init_file);

  const std::shared_ptr<const ParameterLayout>& layout() const override { return net_->layout(); }
  void initialize(Key key, ParameterSet& out) override;
  uint64_t macs_per_sample() const override { return net_->macs_per_sample(); }
  uint64_t training_bytes(int64_t batch_size, const StepOptions& options) const override;
  void load(const ParameterSet& weights) override;
  void load_shared(const std::shared_ptr<const ParameterSet>& weights) override;
  void store(ParameterSet& weights) const override;
  std::span<const float> weights() const override {
    copy_loaded();
    return weights_;
  }
  FitResult fit(const data::Dataset& dataset, std::span<const uint32_t> samples,
                const StepOptions& options, const FitHooks& hooks, Key key) override;
  NormStatistics statistics(const data::Dataset& dataset, std::span<const uint32_t> samples,
                            size_t batch_size) override;
  const FixedTensors& fixed() const override { return net_->fixed(); }
  bool opaque() const override { return net_->opaque(); }
  size_t num_logits() const override { return net_->num_logits(); }
  std::vector<int64_t> feature_shape() const override { return net_->feature_shape(); }
  std::vector<size_t> extractor_tensors() const override { return net_->extractor_tensors(); }
  void predict(const data::Dataset& dataset, std::span<const uint32_t> samples,
               const data::Augmentation* augmentation, Key key, std::span<float> features,
               std::span<float> logits) override;
  EvalSums evaluate(const data::Dataset& dataset, std::span<const uint32_t> samples) override;

 private:
  void check(const data::Dataset& dataset) const;
  void copy_loaded() const;
  // The net that trains as `training` says, made when first asked for.
  NestedNet& nested(const SubmodelTraining& training, const data::Dataset& dataset,
                    std::span<const uint32_t> samples, Key key);
  Batch gather(const data::Dataset& dataset, std::span<const uint32_t> indices,
               const data::Augmentation* augmentation, Key key);
  Batch unaugmented(const data::Dataset& dataset, std::span<const uint32_t> indices);
  static Key drawing_key(std::span<const uint32_t> samples);
  void check_loss(const FitHooks& hooks) const;
  // The loss that the hooks ask for, with the samples' teachers.
  void teach(const FitHooks& hooks, std::span<const uint32_t> indices, Batch& batch);

  std::unique_ptr<Net> net_;
  NarrowNet narrow_;
  std::unique_ptr<NestedNet> nested_;
  DataSpec data_;
  std::string init_file_;
  // Weights that were loaded and are not in weights_ yet: a first step may read them where they
  // are.
  mutable std::shared_ptr<const ParameterSet> loaded_;
  mutable AlignedVector<float> weights_;
  AlignedVector<float> gradients_;
  std::vector<Segment> trainable_,
      unfused_;  // all trainable values; those that the net does not update itself
  Optimizer optimizer_;
  AlignedVector<float> values_, planar_;
  std::vector<int64_t> tokens_, labels_;
  std::vector<float> teacher_;
  std::vector<uint8_t> taught_;
  std::vector<uint32_t> order_;
};

}  // namespace espalier::nn

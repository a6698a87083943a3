#pragma once

#include <memory>
#include <vector>

#include "espalier/train/trainer.h"

// A Trainer around another one, so that a strategy trains with ADP's rules without knowing of them.
namespace espalier::strategy {

// How SalientTrainer::fit differs from the trainer's own.
struct SalientRules {
  // Rows (first axis; single values of vectors) of trained tensors that no step had a gradient for
  // end as they began, whatever weight decay did.
  bool keep_silent_rows = false;
  // After every epoch, convolution weights with |w| ≤ threshold become 0 and the learning rate is
  // multiplied by epoch_lr_decay. Below 0: no such rule.
  double threshold = -1;
  double epoch_lr_decay = 1;
};

class SalientTrainer final : public train::Trainer {
 public:
  SalientTrainer(train::Trainer& trainer, const SalientRules& rules)
      : trainer_(trainer), rules_(rules) {}

  train::FitResult fit(const data::Dataset& dataset, std::span<const uint32_t> samples,
                       const train::TrainOptions& options, const train::FitHooks& hooks,
                       Key key) override;

  const std::shared_ptr<const ParameterLayout>& layout() const override {
    return trainer_.layout();
  }
  void initialize(Key key, ParameterSet& out) override { trainer_.initialize(key, out); }
  uint64_t macs_per_sample() const override { return trainer_.macs_per_sample(); }
  uint64_t training_bytes(int64_t batch_size, const train::TrainOptions& options) const override {
    return trainer_.training_bytes(batch_size, options);
  }
  void load(const ParameterSet& weights) override { trainer_.load(weights); }
  void store(ParameterSet& weights) const override { trainer_.store(weights); }
  ParameterSet statistics(const data::Dataset& dataset, std::span<const uint32_t> samples,
                          size_t batch_size) override {
    return trainer_.statistics(dataset, samples, batch_size);
  }
  std::vector<int64_t> feature_shape() const override { return trainer_.feature_shape(); }
  std::vector<size_t> extractor_tensors() const override { return trainer_.extractor_tensors(); }
  void predict(const data::Dataset& dataset, std::span<const uint32_t> samples,
               const data::Augmentation* augmentation, Key key, std::span<float> features,
               std::span<float> logits) override {
    trainer_.predict(dataset, samples, augmentation, key, features, logits);
  }
  train::EvalSums evaluate(const data::Dataset& dataset,
                           std::span<const uint32_t> samples) override {
    return trainer_.evaluate(dataset, samples);
  }

 private:
  train::FitResult fit_epochs(const data::Dataset& dataset, std::span<const uint32_t> samples,
                              const train::TrainOptions& options, const train::FitHooks& hooks,
                              Key key);

  train::Trainer& trainer_;
  SalientRules rules_;
};

}  // namespace espalier::strategy

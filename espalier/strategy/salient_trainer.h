#pragma once

#include <memory>
#include <vector>

#include "espalier/train/trainer.h"

// A Trainer around another one, so that a strategy trains with ADP's rules without knowing of them
// (Yu, Nguyen, Anwar, Jannesari 2021, arXiv 2106.06921; adp.h has the algorithm). Whichever client
// half asks for training gets it by these rules: its hooks are called as usual.
namespace espalier::strategy {

// How SalientTrainer::fit differs from the trainer's own. The default is no difference. The two
// rules are independent; ADP uses the first with gates ("gated", "fbs"), the second in mode
// "magnitude".
struct SalientRules {
  // Rows (first axis; single values of vectors) of trained tensors that no step had a gradient for
  // end as they began, whatever weight decay did. A gradient is looked at before the caller's
  // before_step hook changes it. Without weight decay nothing is done: no step moves such rows. So
  // the change of a filter whose gate never fired is exactly 0, and an update can leave it out.
  bool keep_silent_rows = false;
  // After every epoch, convolution weights with |w| ≤ threshold become 0 and the learning rate is
  // multiplied by epoch_lr_decay. Below 0: no such rule. 0: only the rate changes.
  double threshold = -1;
  // In (0, 1], counted anew in every fit(); 1: the rate stays. Without effect below threshold 0.
  double epoch_lr_decay = 1;
};

// Not thread-safe, as the trainer that it wraps and that must outlive it.
class SalientTrainer final : public train::Trainer {
 public:
  // The trainer's replica and weights are the ones that are used; `rules` are copied.
  SalientTrainer(train::Trainer& trainer, const SalientRules& rules)
      : trainer_(trainer), rules_(rules) {}

  // With a threshold, the epochs are fits of one epoch each, every one with a child of `key` of its
  // own, so that samples come in another order than in the trainer's own fit; the optimizer goes on
  // from epoch to epoch, and options.max_steps counts over all of them. Results are those of the
  // whole: means over the samples seen, sums of steps and products. Weights that became 0 may grow
  // again. Memory: one copy of the weights, two with silent rows. Throws what the trainer throws.
  train::FitResult fit(const data::Dataset& dataset, std::span<const uint32_t> samples,
                       const train::StepOptions& options, const train::FitHooks& hooks,
                       Key key) override;

  // Everything else is the trainer's own.
  const std::shared_ptr<const ParameterLayout>& layout() const override {
    return trainer_.layout();
  }
  void initialize(Key key, ParameterSet& out) override { trainer_.initialize(key, out); }
  uint64_t macs_per_sample() const override { return trainer_.macs_per_sample(); }
  // The copies of weights that fit() makes are not in it.
  uint64_t training_bytes(int64_t batch_size, const train::StepOptions& options) const override {
    return trainer_.training_bytes(batch_size, options);
  }
  void load(const ParameterSet& weights) override { trainer_.load(weights); }
  void store(ParameterSet& weights) const override { trainer_.store(weights); }
  train::NormStatistics statistics(const data::Dataset& dataset, std::span<const uint32_t> samples,
                                   size_t batch_size) override {
    return trainer_.statistics(dataset, samples, batch_size);
  }
  const train::FixedTensors& fixed() const override { return trainer_.fixed(); }
  bool opaque() const override { return trainer_.opaque(); }
  size_t num_logits() const override { return trainer_.num_logits(); }
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
  // The second rule; fit() puts the first around it.
  train::FitResult fit_epochs(const data::Dataset& dataset, std::span<const uint32_t> samples,
                              const train::StepOptions& options, const train::FitHooks& hooks,
                              Key key);

  train::Trainer& trainer_;  // holds the weights; nothing of them is kept here between calls
  SalientRules rules_;
};

}  // namespace espalier::strategy

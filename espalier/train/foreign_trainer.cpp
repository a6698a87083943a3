#include "espalier/train/foreign_trainer.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"

namespace espalier::train {

namespace {

constexpr const char* kWhere = "train";

[[noreturn]] void refuse(const char* what) {
  fail(kWhere, "the run's strategy wants ", what,
       ", which a program of one's own does not have; let espalier train (join), or choose another "
       "strategy on the server");
}

// What a training of these options takes.
uint64_t planned_steps(size_t samples, const StepOptions& options) {
  const auto batch = static_cast<size_t>(options.batch_size);
  const size_t an_epoch = options.drop_last ? samples / batch : (samples + batch - 1) / batch;
  const uint64_t all = an_epoch * static_cast<uint64_t>(options.epochs);
  return options.max_steps > 0 ? std::min(all, static_cast<uint64_t>(options.max_steps)) : all;
}

class ForeignTrainer final : public Trainer {
 public:
  ForeignTrainer(std::unique_ptr<Trainer> engine, ForeignProgram program)
      : engine_(std::move(engine)), program_(std::move(program)), weights_(engine_->layout()) {}

  const std::shared_ptr<const ParameterLayout>& layout() const override {
    return engine_->layout();
  }
  void initialize(Key key, ParameterSet& out) override { engine_->initialize(key, out); }
  uint64_t macs_per_sample() const override { return engine_->macs_per_sample(); }
  uint64_t training_bytes(int64_t batch_size, const StepOptions& options) const override {
    return engine_->training_bytes(batch_size, options);
  }
  size_t num_logits() const override { return engine_->num_logits(); }
  std::vector<int64_t> feature_shape() const override { return engine_->feature_shape(); }
  std::vector<size_t> extractor_tensors() const override { return engine_->extractor_tensors(); }

  void load(const ParameterSet& weights) override { weights_ = weights; }
  void store(ParameterSet& weights) const override { weights = weights_; }

  FitResult fit(const data::Dataset&, std::span<const uint32_t> samples, const StepOptions& options,
                const FitHooks& hooks, Key key) override {
    if (hooks.submodel != nullptr) refuse("narrower widths within a step");
    if (hooks.teacher || !(hooks.loss == LossOptions{})) refuse("another loss than cross-entropy");
    if (hooks.optimizer != nullptr) refuse("an optimizer that goes on from round to round");
    uint64_t before = 0, after = 0;
    ForeignTask task{weights_, samples.size(), options, key.value(), nullptr, nullptr};
    if (hooks.before_step) {
      task.before_step = [&](std::span<const float> weights, std::span<float> gradients) {
        ++before;
        hooks.before_step(weights, gradients);
      };
    }
    if (hooks.after_step) {
      task.after_step = [&](std::span<float> weights) {
        ++after;
        hooks.after_step(weights);
      };
    }
    FitResult result = program_.fit(task);
    const bool changed = task.before_step != nullptr || task.after_step != nullptr;
    if (result.steps == 0) {
      result.steps =
          changed ? (task.before_step ? before : after) : planned_steps(samples.size(), options);
    }
    const bool no_before = task.before_step && (before == 0 || before != result.steps);
    const bool no_after = task.after_step && (after == 0 || after != result.steps);
    if (no_before || no_after) {
      fail(kWhere, "the run's strategy changes every step: call the task's ",
           no_before ? "before_step (with the gradients)" : "after_step",
           " in every step of the training; there were ", result.steps, " steps and ",
           no_before ? before : after, " calls");
    }
    if (!all_finite(weights_.values()) || std::isinf(result.loss))
      fail(kWhere, "the trained weights or their loss are not finite; lower the learning rate");
    if (result.samples == 0)
      result.samples = samples.size() * static_cast<uint64_t>(std::max<int64_t>(options.epochs, 1));
    return result;
  }

  NormStatistics statistics(const data::Dataset&, std::span<const uint32_t>, size_t) override {
    refuse("statistics of normalization layers");
  }
  void predict(const data::Dataset&, std::span<const uint32_t>, const data::Augmentation*, Key,
               std::span<float>, std::span<float>) override {
    refuse("features or logits of samples");
  }
  EvalSums evaluate(const data::Dataset&, std::span<const uint32_t>) override {
    refuse("the loss of some of its samples");
  }
  EvalSums evaluate_all(const data::Dataset&, std::span<const uint32_t> samples, size_t) override {
    if (samples.empty()) return {};
    if (!program_.evaluate) refuse("an evaluation");
    EvalSums sums = program_.evaluate(weights_);
    if (sums.count != samples.size() || sums.correct > sums.count) {
      fail(kWhere, "expected an evaluation of the ", samples.size(), " samples, got ", sums.correct,
           " correct of ", sums.count);
    }
    return sums;
  }

 private:
  std::unique_ptr<Trainer> engine_;
  ForeignProgram program_;
  ParameterSet weights_;
};

}  // namespace

std::unique_ptr<Trainer> make_foreign_trainer(std::unique_ptr<Trainer> engine,
                                              ForeignProgram program) {
  return std::make_unique<ForeignTrainer>(std::move(engine), std::move(program));
}

}  // namespace espalier::train

#include "espalier/strategy/salient_trainer.h"

#include <algorithm>
#include <cmath>

namespace espalier::strategy {
namespace {

// The rows of trained tensors, and which of them have had a gradient.
class SilentRows {
 public:
  explicit SilentRows(const ParameterLayout& layout) {
    for (const ParameterInfo& tensor : layout.tensors()) {
      if (!is_trainable(tensor.role) || tensor.size == 0) continue;
      const int64_t rows = tensor.shape.empty() ? 1 : tensor.shape[0];
      const auto width = static_cast<size_t>(tensor.size / rows);
      for (int64_t row = 0; row < rows; ++row)
        silent_.push_back(
            {static_cast<size_t>(tensor.offset) + static_cast<size_t>(row) * width, width});
    }
  }

  // Rows that have a gradient that is not zero leave the list: the first value tells of most.
  void look(std::span<const float> gradients) {
    std::erase_if(silent_, [&](const Row& row) {
      const auto values = gradients.subspan(row.begin, row.size);
      return std::ranges::any_of(values, [](float value) { return value != 0; });
    });
  }

  void restore(std::span<const float> before, std::span<float> weights) const {
    for (const Row& row : silent_)
      std::ranges::copy(before.subspan(row.begin, row.size), weights.begin() + row.offset());
  }
  bool any() const { return !silent_.empty(); }

 private:
  struct Row {
    size_t begin, size;
    std::ptrdiff_t offset() const { return static_cast<std::ptrdiff_t>(begin); }
  };
  std::vector<Row> silent_;
};

}  // namespace

train::FitResult SalientTrainer::fit(const data::Dataset& dataset,
                                     std::span<const uint32_t> samples,
                                     const train::StepOptions& options,
                                     const train::FitHooks& hooks, Key key) {
  if (!rules_.keep_silent_rows || options.weight_decay == 0)
    return fit_epochs(dataset, samples, options, hooks, key);
  ParameterSet before;
  trainer_.store(before);
  SilentRows rows(*layout());
  train::FitHooks watching = hooks;
  watching.before_step = [&](std::span<const float> weights, std::span<float> gradients) {
    rows.look(gradients);
    if (hooks.before_step) hooks.before_step(weights, gradients);
  };
  const train::FitResult result = fit_epochs(dataset, samples, options, watching, key);
  if (rows.any()) {
    ParameterSet after;
    trainer_.store(after);
    rows.restore(before.values(), after.values());
    trainer_.load(after);
  }
  return result;
}

train::FitResult SalientTrainer::fit_epochs(const data::Dataset& dataset,
                                            std::span<const uint32_t> samples,
                                            const train::StepOptions& options,
                                            const train::FitHooks& hooks, Key key) {
  if (rules_.threshold < 0) return trainer_.fit(dataset, samples, options, hooks, key);
  train::StepOptions epoch_options = options;
  epoch_options.epochs = 1;
  train::OptimizerState own;
  train::FitHooks epoch_hooks = hooks;
  if (epoch_hooks.optimizer == nullptr) epoch_hooks.optimizer = &own;
  const auto limit = static_cast<float>(rules_.threshold);
  train::FitResult total;
  double loss = 0, accuracy = 0;
  for (int64_t epoch = 0; epoch < options.epochs; ++epoch) {
    if (options.max_steps > 0) {
      epoch_options.max_steps = options.max_steps - static_cast<int64_t>(total.steps);
      if (epoch_options.max_steps == 0) break;
    }
    const train::FitResult part = trainer_.fit(dataset, samples, epoch_options, epoch_hooks,
                                               key.child(static_cast<uint64_t>(epoch)));
    loss += part.loss * static_cast<double>(part.samples);
    accuracy += part.accuracy * static_cast<double>(part.samples);
    total.steps += part.steps;
    total.samples += part.samples;
    total.macs += part.macs;
    epoch_options.lr *= rules_.epoch_lr_decay;

    ParameterSet weights;
    trainer_.store(weights);
    for (const ParameterInfo& tensor : weights.layout().tensors()) {
      if (tensor.role != Role::kWeight || tensor.shape.size() != 4) continue;
      for (float& value : weights.values(tensor)) {
        if (std::abs(value) <= limit) value = 0;
      }
    }
    trainer_.load(weights);
  }
  const auto seen = static_cast<double>(std::max<uint64_t>(1, total.samples));
  total.loss = loss / seen;
  total.accuracy = accuracy / seen;
  return total;
}

}  // namespace espalier::strategy

// The client half of training under a mask, and the exploration before it.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/strategy/pruning.h"

namespace espalier::strategy {
namespace {

// Mean squared gradients over the steps of a training.
class SquaredGradients {
 public:
  explicit SquaredGradients(std::shared_ptr<const ParameterLayout> layout)
      : sums_(std::move(layout)) {}

  void add(std::span<const float> gradients) {
    const auto sums = sums_.values();
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += gradients[i] * gradients[i];
    ++steps_;
  }
  std::shared_ptr<const ParameterSet> mean() {
    auto out = std::make_shared<ParameterSet>(sums_);
    for (float& value : out->values()) value /= static_cast<float>(std::max<uint64_t>(1, steps_));
    return out;
  }

 private:
  ParameterSet sums_;
  uint64_t steps_ = 0;
};

// The samples that a client explores with, and those by whose loss it stops.
struct Split {
  std::vector<uint32_t> train, held_out;
};
Split split(std::span<const uint32_t> samples, double holdout, Key key) {
  std::vector<uint32_t> order(samples.begin(), samples.end());
  const auto out = static_cast<size_t>(std::floor(holdout * static_cast<double>(samples.size())));
  if (out > 0) Stream(key).shuffle(std::span(order));
  Split split;
  split.held_out.assign(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(out));
  split.train.assign(order.begin() + static_cast<std::ptrdiff_t>(out), order.end());
  return split;
}

double mean_loss(train::Trainer& trainer, const data::Dataset& dataset,
                 std::span<const uint32_t> samples, size_t batch) {
  double loss = 0;
  for (size_t begin = 0; begin < samples.size(); begin += batch)
    loss +=
        trainer.evaluate(dataset, samples.subspan(begin, std::min(batch, samples.size() - begin)))
            .loss;
  return loss / static_cast<double>(samples.size());
}

}  // namespace

Update Pruning::run_client(ClientContext& context, const Task& task) const {
  if (task.kind == TaskKind::kExplore) return explore(context, task);
  train::FitHooks hooks;
  const bool refresh = task.scalars.contains(kRefresh);
  const bool lifted = refresh && row_.evidence == prune::EvidenceKind::kDeviation;
  uint64_t step = 0;
  if (row_.every_step) {
    const ParameterLayout& layout = *context.trainer.layout();
    hooks.after_step = [&](std::span<float> weights) {
      prune::zero_random(weights, layout, options_.sparsity, options_.tensors == "weights",
                         context.key.child(Purpose::kStrategy).child(step++));
    };
  } else if (task.mask != nullptr && !lifted) {
    hooks.after_step = [&](std::span<float> weights) { task.mask->mask.apply(weights); };
  }
  std::optional<SquaredGradients> squares;
  if (refresh && row_.evidence == prune::EvidenceKind::kImportance) {
    squares.emplace(context.trainer.layout());
    hooks.before_step = [&](std::span<const float>, std::span<float> gradients) {
      squares->add(gradients);
    };
  }
  Update update = train_locally(context, task, hooks);
  update.payloads[0].weight = weighting().weight(update.num_samples);
  if (squares) update.payloads.push_back({kImportance, squares->mean(), 1});
  if (!refresh) update.mask = task.mask;
  return update;
}

// Trains from the task's weights until the loss has not fallen for a while. What it says of the
// weights it ends with is how far each has moved, squared (or, for importances, the mean square of
// each gradient on the way).
Update Pruning::explore(ClientContext& context, const Task& task) const {
  const double started = thread_cpu_seconds();
  const ParameterSet& before = *task.payload(kModel).values;
  train::Trainer& trainer = context.trainer;
  trainer.load(before);
  const Split parts = split(context.samples, options_.exploration_holdout,
                            context.key.child(Purpose::kExploration));
  if (parts.train.empty())
    fail("strategy/exploration", "client ", task.client, " has no samples to explore with");
  train::TrainOptions options = task.train;
  options.epochs = 1;
  train::OptimizerState optimizer;
  train::FitHooks hooks;
  hooks.optimizer = &optimizer;
  std::optional<SquaredGradients> squares;
  if (row_.evidence == prune::EvidenceKind::kImportance) {
    squares.emplace(trainer.layout());
    hooks.before_step = [&](std::span<const float>, std::span<float> gradients) {
      squares->add(gradients);
    };
  }

  Update update;
  double best = std::numeric_limits<double>::infinity(), macs = 0, steps = 0, seen = 0;
  train::FitResult last;
  int64_t epoch = 0;
  for (int64_t waited = 0;
       epoch < options_.exploration_epochs && waited < options_.exploration_patience; ++epoch) {
    last = trainer.fit(context.dataset, parts.train, options, hooks,
                       context.key.child(static_cast<uint64_t>(epoch)));
    macs += static_cast<double>(last.macs);
    steps += static_cast<double>(last.steps);
    seen += static_cast<double>(last.samples);
    double loss = last.loss;
    if (!parts.held_out.empty()) {
      loss = mean_loss(trainer, context.dataset, parts.held_out,
                       static_cast<size_t>(options.batch_size));
      macs += static_cast<double>(trainer.macs_per_sample() * parts.held_out.size());
    }
    waited = loss < best ? 0 : waited + 1;
    best = std::min(best, loss);
  }

  auto moved = std::make_shared<ParameterSet>(before.shared_layout());
  trainer.store(*moved);
  subtract(moved->values(), before.values(), moved->values());
  for (const ParameterInfo& tensor : moved->layout().tensors()) {
    if (tensor.role == Role::kCounter) {
      for (float& value : moved->values(tensor))
        value = std::min(value, ExactAccumulator::kMaxValue);
    }
  }
  if (squares) {
    update.payloads.push_back({kImportance, squares->mean(), 1});
  } else {
    auto deviation = std::make_shared<ParameterSet>(before.shared_layout());
    for_trainable(deviation->layout(), [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i)
        deviation->values()[i] = moved->values()[i] * moved->values()[i];
    });
    update.payloads.push_back({kDeviation, std::move(deviation), 1});
  }
  update.num_samples = static_cast<double>(context.samples.size());
  if (options_.init_from_exploration)
    update.payloads.push_back(
        {kExplored, std::move(moved), weighting().weight(update.num_samples)});
  update.scalars[kTrainLoss] = last.loss;
  update.scalars[kTrainAccuracy] = last.accuracy;
  update.scalars[kExplorationEpochs] = static_cast<double>(epoch);
  update.scalars[kSteps] = steps;
  update.scalars[kSamplesSeen] = seen;
  update.scalars[kMacs] = macs;
  update.scalars[kTrainSeconds] = thread_cpu_seconds() - started;
  return update;
}

}  // namespace espalier::strategy

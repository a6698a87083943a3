// AutoFLIP's exploration of the loss, and PruneFL's of the gradients.
#include "espalier/strategy/exploration_client.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/client/local_training.h"
#include "espalier/strategy/pruning_client.h"
#include "espalier/strategy/squared_gradients.h"
#include "espalier/train/evaluation.h"

namespace espalier::strategy {
namespace {

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

}  // namespace

wire::Update ExplorationClient::run(client::ClientContext& context, const wire::Task& task) const {
  const client::Measured measured;
  const ParameterSet& before = *task.payload(wire::kModel).values;
  train::Trainer& trainer = context.trainer;
  trainer.load(before);
  const Split parts = split(context.samples, options_.exploration_holdout,
                            context.key.child(Purpose::kExploration));
  if (parts.train.empty())
    fail("strategy/exploration", "client ", task.client, " has no samples to explore with");
  train::StepOptions options = task.train;
  options.epochs = 1;
  // What is held out must not take the only batch away.
  options.drop_last =
      options.drop_last && static_cast<int64_t>(parts.train.size()) >= options.batch_size;
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

  wire::Update update;
  double best = std::numeric_limits<double>::infinity(), macs = 0;
  uint64_t steps = 0, seen = 0;
  train::FitResult last;
  int64_t epoch = 0;
  for (int64_t waited = 0;
       epoch < options_.exploration_epochs && waited < options_.exploration_patience; ++epoch) {
    last = trainer.fit(context.dataset, parts.train, options, hooks,
                       context.key.child(static_cast<uint64_t>(epoch)));
    macs += static_cast<double>(last.macs);
    steps += last.steps;
    seen += last.samples;
    double loss = last.loss;
    if (!parts.held_out.empty()) {
      loss = trainer
                 .evaluate_all(context.dataset, parts.held_out,
                               static_cast<size_t>(options.batch_size))
                 .loss /
             static_cast<double>(parts.held_out.size());
      macs += static_cast<double>(trainer.macs_per_sample() * parts.held_out.size());
    }
    waited = loss < best ? 0 : waited + 1;
    best = std::min(best, loss);
  }

  auto moved = client::change_since(before, trainer);
  if (squares) {
    update.payloads.push_back({PruningClient::kImportance, squares->mean(), 1});
  } else {
    update.payloads.push_back({kDeviation, squares_of(*moved), 1});
  }
  const auto num_samples = static_cast<double>(context.samples.size());
  if (options_.init_from_exploration)
    update.payloads.push_back({kExplored, std::move(moved), options_.weight(num_samples)});
  for (wire::Payload& payload : update.payloads) payload.coding = wire::Coding::kFaithful;
  update.scalars[kEpochs] = static_cast<double>(epoch);
  last.steps = steps;
  last.samples = seen;
  measured.report(last, macs, num_samples, update);
  return update;
}

}  // namespace espalier::strategy

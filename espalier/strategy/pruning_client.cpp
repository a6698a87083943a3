// The client half of training under a mask.
#include "espalier/strategy/pruning_client.h"

#include <optional>

#include "espalier/strategy/exploration_client.h"
#include "espalier/strategy/squared_gradients.h"

namespace espalier::strategy {

wire::Update PruningClient::run(client::ClientContext& context, const wire::Task& task) const {
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
  wire::Update update = train(context, task, hooks);
  if (squares) update.payloads.push_back({kImportance, squares->mean(), 1});
  if (lifted && options_.sends_squares)
    update.payloads.push_back(
        {ExplorationClient::kDeviation, squares_of(*update.payloads[0].values), 1});
  for (size_t p = 1; p < update.payloads.size(); ++p)
    update.payloads[p].coding = wire::Coding::kFaithful;
  if (!refresh) update.mask = task.mask;
  return update;
}

}  // namespace espalier::strategy

#include "espalier/strategy/scaffold_client.h"

#include "espalier/base/error.h"

namespace espalier::strategy {

wire::Update ScaffoldClient::run(client::ClientContext& context, const wire::Task& task) const {
  const ParameterSet& control = *task.payload(kControl).values;
  if (!(control.layout() == task.payload(wire::kModel).values->layout()))
    fail("strategy/scaffold", "the control variate and the model differ in size");
  const ParameterLayout& tensors = control.layout();
  ParameterSet own(control.shared_layout());  // c_k, zero for a client that was never selected
  if (context.previous != nullptr) {
    const auto found = context.previous->sets.find(kControl);
    if (found == context.previous->sets.end() || !(found->second.layout() == tensors)) {
      fail("strategy/scaffold", "the stored state of client ", task.client,
           " belongs to another model");
    }
    own = found->second;
  }
  train::FitHooks hooks;
  hooks.before_step = [&](std::span<const float>, std::span<float> gradients) {
    for_trainable(tensors, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) gradients[i] += control.values()[i] - own.values()[i];
    });
  };
  wire::Update update = train(context, task, hooks);

  // c_k⁺ − c_k = −c − Δy/(Kη) on what is trained; 0 elsewhere, and 0 for a client without samples.
  auto change = std::make_shared<ParameterSet>(control.shared_layout());
  if (const double steps = update.scalar(wire::kSteps); steps > 0) {
    const auto factor = static_cast<float>(1.0 / (steps * task.train.lr));
    const auto delta = update.payloads[0].values->values();
    for_trainable(tensors, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i)
        change->values()[i] = -control.values()[i] - factor * delta[i];
    });
  }
  add_scaled(own.values(), 1.0f, change->values());
  context.next.sets.insert_or_assign(kControl, std::move(own));
  update.payloads.push_back({kControlDelta, std::move(change), 1});
  return update;
}

}  // namespace espalier::strategy

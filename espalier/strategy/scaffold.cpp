#include "espalier/strategy/scaffold.h"

#include "espalier/base/error.h"

namespace espalier::strategy {

namespace {
constexpr const char* kControl = "control";
constexpr const char* kControlDelta = "control_delta";
}  // namespace

void Scaffold::start(const ServerSetup& setup) {
  FedAvg::start(setup);
  num_clients_ = setup.num_clients;
  control_ = std::make_shared<ParameterSet>(setup.layout);
}

void Scaffold::load(ByteReader& in) {
  auto control = std::make_shared<ParameterSet>(layout());
  read_values(in, *control);
  control_ = std::move(control);
}

void Scaffold::configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                         Task& task) {
  if (task.train.optimizer != "sgd") {
    fail("strategy/scaffold", "expected train.optimizer = \"sgd\", got \"", task.train.optimizer,
         "\": the control variates are mean SGD gradients");
  }
  if (task.train.momentum != 0) {
    fail("strategy/scaffold", "expected train.momentum = 0, got ", task.train.momentum,
         ": with momentum the mean change is no longer the mean gradient that the control variates "
         "are");
  }
  FedAvg::configure(round, global, task);
  task.payloads.push_back({kControl, control_, 1});
}

Update Scaffold::run_client(ClientContext& context, const Task& task) const {
  const ParameterSet& control = *task.payload(kControl).values;
  if (!(control.layout() == task.payload(kModel).values->layout()))
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
  Update update = train_locally(context, task, hooks);
  update.payloads[0].weight = weighting().weight(update.num_samples);

  // c_k⁺ − c_k = −c − Δy/(Kη) on what is trained; 0 elsewhere, and 0 for a client without samples.
  auto change = std::make_shared<ParameterSet>(control.shared_layout());
  if (const double steps = update.scalar(kSteps); steps > 0) {
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

std::vector<std::string> Scaffold::update_payloads(const RoundInfo&) const {
  return {kDelta, kControlDelta};
}

void Scaffold::finish(const RoundInfo&, const RoundSums& sums, ParameterSet& global) {
  const ParameterSet mean = sums.mean(kDelta, layout());
  const auto lr = static_cast<float>(server_lr_);
  for_trainable(global.layout(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) global.values()[i] += lr * mean.values()[i];
  });
  apply_untrained(mean, global);

  const ParameterSet control_mean = sums.mean(kControlDelta, layout());
  const auto share = static_cast<float>(static_cast<double>(sums.num_updates()) /
                                        static_cast<double>(num_clients_));
  auto control = std::make_shared<ParameterSet>(*control_);
  add_scaled(control->values(), share, control_mean.values());
  control_ = std::move(control);
}

}  // namespace espalier::strategy

#include "espalier/round/submodel_plan.h"

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier::round {

SubmodelPlan::SubmodelPlan(SubmodelOptions options, std::shared_ptr<const ParameterLayout> layout)
    : options_(std::move(options)), layout_(std::move(layout)) {
  if (options_.name == "none") {
    if (!options_.widths.empty() || !options_.eval_widths.empty() || options_.scaler ||
        options_.masked_cross_entropy || options_.static_batch_norm) {
      fail("config", "[submodel] has options but no method; set submodel.name = \"ordered\"");
    }
    return;
  }
  method_ = &submodel::find_selection(options_.name);
  if (layout_->groups().empty()) {
    fail("config",
         "the model has no units that could be dropped; remove [submodel] or use another "
         "model");
  }
  if (options_.shared && !method_->random)
    fail("config", "submodel.shared is for random sub-models; '", options_.name,
         "' chooses the same units for all clients of a ratio anyway");
  if (!options_.widths.empty() && !fixed())
    fail("config", "submodel.widths needs submodel.name = \"ordered\": widths are nested");
  if (options_.self_distillation > 0 && options_.widths.empty())
    fail("config", "submodel.self_distillation needs submodel.widths");
}

strategy::Aggregation SubmodelPlan::aggregation() const {
  const bool zero = options_.aggregation == "zero" ||
                    (options_.aggregation == "auto" && (!active() || method_->random));
  return zero ? strategy::Aggregation::kZero : strategy::Aggregation::kCount;
}

double SubmodelPlan::keep(const DeviceTable& devices, uint64_t client) const {
  return devices.empty() ? options_.keep : devices.of(client).keep;
}

std::shared_ptr<const submodel::Submodel> SubmodelPlan::choose(const strategy::RoundInfo& round,
                                                               uint64_t client, double keep) {
  if (!active()) return nullptr;
  const Key key = round.key.child(Purpose::kSubmodel);
  if (method_->random && !options_.shared) {
    auto chosen = choose_submodel(*method_, layout_, keep, round.round, key.child(client));
    return chosen->whole() ? nullptr : chosen;
  }
  const std::lock_guard lock(mutex_);
  if (cached_round_ != round.round) cached_.clear();
  cached_round_ = round.round;
  auto& chosen = cached_[keep];
  if (!chosen) chosen = choose_submodel(*method_, layout_, keep, round.round, key);
  return chosen->whole() ? nullptr : chosen;
}

train::SubmodelTraining SubmodelPlan::training(double keep) const {
  train::SubmodelTraining training;
  if (!active()) return training;
  std::vector<double> widths;
  for (const double width : options_.widths) {
    if (width < keep) widths.push_back(width);
  }
  if (!widths.empty()) {
    widths.push_back(keep);
    for (const double width : widths)
      training.widths.push_back(submodel::kept_units(width, *layout_));
    training.distillation = options_.self_distillation;
    training.temperature = options_.temperature;
  }
  if (options_.scaler) training.scale = 1 / keep;
  training.masked_cross_entropy = options_.masked_cross_entropy;
  training.static_statistics = options_.static_batch_norm;
  return training;
}

std::shared_ptr<const submodel::Submodel> SubmodelPlan::at_width(double keep) const {
  auto chosen = choose_submodel(submodel::find_selection("ordered"), layout_, keep, 1, Key(0));
  return chosen->whole() ? nullptr : chosen;
}

}  // namespace espalier::round

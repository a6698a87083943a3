#include "espalier/round/submodel_plan.h"

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier::round {

double keep_of(const SubmodelOptions& submodel, const DeviceOptions& device) {
  if (submodel.name == "none") return 1;
  return device.keep > 0 ? device.keep : submodel.keep;
}

bool all_whole(const SubmodelOptions& submodel, const std::vector<DeviceOptions>& devices) {
  if (devices.empty()) return keep_of(submodel, {}) == 1;
  return std::ranges::all_of(
      devices, [&](const DeviceOptions& device) { return keep_of(submodel, device) == 1; });
}

bool units_stay(const SubmodelOptions& submodel, const std::vector<DeviceOptions>& devices) {
  return submodel.name == "ordered" || all_whole(submodel, devices);
}

SubmodelPlan::SubmodelPlan(SubmodelOptions options, std::shared_ptr<const ParameterLayout> layout,
                           const std::vector<DeviceOptions>& devices)
    : options_(std::move(options)), layout_(std::move(layout)) {
  if (options_.name == "none") {
    Json given = Json::object(), defaults = Json::object();
    write_options(options_, given);
    write_options(SubmodelOptions{}, defaults);
    for (const auto& [key, value] : given.items()) {
      if (value != defaults[key])
        fail("config", "submodel.", key,
             " needs a method; set submodel.name = \"ordered\" or another of `espalier list "
             "submodels`");
    }
    for (const DeviceOptions& device : devices) {
      if (device.keep > 0 && device.keep != 1)
        fail("config", "device '", device.name, "' keeps ", device.keep,
             " of the units, but there is no [submodel]; add submodel.name = \"ordered\"");
    }
    return;
  }
  method_ = &submodel::find_selection(options_.name);
  const bool ordered = !method_->random && !method_->moves;
  if (layout_->groups().empty()) {
    fail("config",
         "the model has no units that could be dropped; remove [submodel] or use another "
         "model");
  }
  if (options_.shared && !method_->random)
    fail("config", "submodel.shared is for random sub-models; '", options_.name,
         "' chooses the same units for all clients of a ratio anyway");
  if (!options_.widths.empty() && !ordered)
    fail("config", "submodel.widths needs submodel.name = \"ordered\": widths are nested");
  if (options_.widths.size() > 32)
    fail("config", "expected at most 32 submodel.widths, got ", options_.widths.size());
  if (options_.scaler && !options_.widths.empty())
    fail("config",
         "submodel.scaler scales by the client's keep, which drawn widths are not; leave "
         "one of submodel.scaler and submodel.widths out");
  if (options_.self_distillation > 0 && options_.widths.empty())
    fail("config", "submodel.self_distillation needs submodel.widths");
  if (options_.temperature != 1 && options_.self_distillation == 0)
    fail("config", "submodel.temperature needs submodel.self_distillation");
  if (!options_.static_batch_norm) return;
  if (std::ranges::none_of(layout_->tensors(), [](const ParameterInfo& tensor) {
        return tensor.role == Role::kStatistic;
      })) {
    fail("config", "submodel.static_batch_norm: the model has no running statistics");
  }
  const bool somebody = devices.empty()
                            ? options_.keep == 1
                            : std::ranges::any_of(devices, [&](const DeviceOptions& device) {
                                return keep_of(options_, device) == 1;
                              });
  if (!somebody)
    fail("config",
         "submodel.static_batch_norm needs clients that can hold the whole model, to "
         "compute its statistics; give one of [[devices]] keep = 1");
}

std::shared_ptr<const strategy::SumRule> SubmodelPlan::aggregation() const {
  const bool zero = options_.aggregation == "zero" ||
                    (options_.aggregation == "auto" && (!active() || method_->random));
  return zero ? strategy::weighted_mean() : strategy::covered_mean();
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

#include "espalier/round/submodel_plan.h"

#include <algorithm>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/submodel/growth.h"

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

bool has_whole_rounds(const SubmodelOptions& submodel) {
  return submodel.whole_until > 0 || submodel.whole_from > 0;
}

bool units_stay(const SubmodelOptions& submodel, const std::vector<DeviceOptions>& devices) {
  const bool chosen_once = submodel.name == "ordered" || submodel.stay_rounds == 0;
  return all_whole(submodel, devices) || (chosen_once && !has_whole_rounds(submodel));
}

bool units_common(const SubmodelOptions& submodel, const std::vector<DeviceOptions>& devices) {
  const bool own = submodel.name == "federated-dropout" && !submodel.shared;
  return all_whole(submodel, devices) || (units_stay(submodel, devices) && !own);
}

SubmodelPlan::SubmodelPlan(SubmodelOptions options, std::shared_ptr<const ParameterLayout> layout,
                           Key run, const std::vector<DeviceOptions>& devices)
    : options_(std::move(options)), layout_(std::move(layout)), run_(run) {
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
  check(devices);
}

void SubmodelPlan::check(const std::vector<DeviceOptions>& devices) const {
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
  if (options_.stay_rounds != 1 && (ordered || method_->scored))
    fail("config", "submodel.stay_rounds is for choices that change from round to round; '",
         options_.name, "' ", ordered ? "keeps" : "draws by the weights of",
         ordered ? " the same units anyway" : " each round");
  const bool whole_rounds = has_whole_rounds(options_);
  if (whole_rounds && !options_.widths.empty())
    fail("config",
         "submodel.whole_until and whole_from do not go with submodel.widths, which every step "
         "draws from");
  if (whole_rounds && std::ranges::any_of(devices, [](const DeviceOptions& device) {
        return device.keep > 0 && device.keep < 1;
      })) {
    fail("config",
         "submodel.whole_until and whole_from let every client train the whole model, which "
         "[[devices]] with a keep below 1 cannot; leave one of the two out");
  }
  if (options_.whole_from > 0 && options_.whole_until >= options_.whole_from - 1)
    fail("config",
         options_.whole_until > 0 ? concat("submodel.whole_until = ", options_.whole_until, " and ")
                                  : "submodel.",
         "whole_from = ", options_.whole_from, " leave no round for sub-models; raise whole_from",
         options_.whole_until > 0 ? " or lower whole_until" : "");
  if (options_.grow && (!ordered || options_.whole_from == 0))
    fail("config",
         "submodel.grow needs submodel.name = \"ordered\" and submodel.whole_from, the round in "
         "which the net becomes whole");
  if (options_.grow && options_.scaler)
    fail("config",
         "submodel.grow begins with a small net that is the whole one in it, and submodel.scaler "
         "trains it with hidden outputs times 1/keep, which the whole one has not; leave one of "
         "the two out");
  for (const std::string& name : options_.whole_layers) {
    std::vector<std::string> known;
    for (const UnitGroup& group : layout_->groups()) known.push_back(group.name);
    if (std::ranges::find(known, name) == known.end())
      fail("config", "submodel.whole_layers: ", unknown_name_message("layer", name, known));
  }
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

ParameterSet SubmodelPlan::begin(ParameterSet fresh) const {
  if (active() && options_.grow) submodel::begin_small(fresh, units(options_.keep));
  return fresh;
}

double SubmodelPlan::keep(const DeviceTable& devices, uint64_t client, uint32_t round) const {
  const bool before = static_cast<int64_t>(round) <= options_.whole_until;
  const bool after = options_.whole_from > 0 && static_cast<int64_t>(round) >= options_.whole_from;
  return before || after ? 1 : keep_of(options_, devices.of(client));
}

std::vector<int64_t> SubmodelPlan::units(double keep) const {
  return submodel::kept_units(keep, *layout_, options_.whole_layers);
}

std::shared_ptr<const submodel::UnitScores> SubmodelPlan::scores(uint32_t round,
                                                                 const ParameterSet& global) {
  if (!method_->scored) return std::make_shared<submodel::UnitScores>();
  const std::lock_guard lock(mutex_);
  if (scored_round_ != round)
    scores_ = std::make_shared<submodel::UnitScores>(submodel::incoming_norms(global));
  scored_round_ = round;
  return scores_;
}

std::shared_ptr<const submodel::Submodel> SubmodelPlan::choose(uint32_t round, uint64_t client,
                                                               double keep,
                                                               const ParameterSet& global) {
  if (!active()) return nullptr;
  // Rounds of one turn share a choice. With a turn per round its key is the round's.
  const int64_t stay = options_.stay_rounds;
  const uint32_t turn = stay == 0 ? 1 : static_cast<uint32_t>((int64_t{round} - 1) / stay + 1);
  const Key key = run_.child(turn).child(Purpose::kSubmodel);
  const auto scores = this->scores(round, global);
  const auto draw = [&](Key from) {
    return choose_submodel(*method_, layout_, units(keep), turn, from, *scores);
  };
  if (differs_by_client()) {
    auto chosen = draw(key.child(client));
    return chosen->whole() ? nullptr : chosen;
  }
  const std::lock_guard lock(mutex_);
  if (cached_round_ != round) cached_.clear();
  cached_round_ = round;
  auto& chosen = cached_[keep];
  if (!chosen) chosen = draw(key);
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
    for (const double width : widths) training.widths.push_back(units(width));
    training.distillation = options_.self_distillation;
    training.temperature = options_.temperature;
  }
  if (options_.scaler) training.scale = 1 / keep;
  training.masked_cross_entropy = options_.masked_cross_entropy;
  training.static_statistics = options_.static_batch_norm;
  return training;
}

std::shared_ptr<const submodel::Submodel> SubmodelPlan::at_width(double keep) const {
  auto chosen =
      choose_submodel(submodel::find_selection("ordered"), layout_, units(keep), 1, Key(0));
  return chosen->whole() ? nullptr : chosen;
}

}  // namespace espalier::round

#include "espalier/round/statistics_errand.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/client/statistics.h"

namespace espalier::round {

StatisticsErrand::StatisticsErrand(const strategy::RoundInfo& info,
                                   std::shared_ptr<const ParameterSet> model,
                                   std::vector<int64_t> units, uint64_t max_clients,
                                   double max_weight)
    : info_(info),
      model_(std::move(model)),
      units_(std::move(units)),
      sums_(max_clients, max_weight) {
  std::vector<ParameterInfo> tensors;
  for (const ParameterInfo& tensor : model_->layout().tensors()) {
    if (tensor.role == Role::kStatistic)
      tensors.push_back({.name = tensor.name, .shape = tensor.shape, .role = tensor.role});
  }
  layout_ = std::make_shared<const ParameterLayout>(std::move(tensors));
}

Outgoing StatisticsErrand::prepare(uint64_t) {
  Outgoing out;
  out.codec_key = info_.key.child(Purpose::kDownlink);
  out.task.algorithm = client::Statistics::kName;
  out.task.train = info_.train;
  out.task.units = units_;
  out.task.payloads.push_back({wire::kModel, model_, 1});
  return out;
}

wire::WireLimits StatisticsErrand::limits(uint64_t, const Sent&) const {
  return {model_->shared_layout(), layout_->size(), 1};
}

void StatisticsErrand::accept(uint64_t client, const Sent&, wire::Update& update) {
  if (update.payloads.size() != 1 || update.payloads[0].name != wire::kStatistics ||
      !(update.payloads[0].values->layout() == *layout_)) {
    fail("round/update", "expected the model's statistics over ", update.num_samples, " samples");
  }
  for (const ParameterInfo& tensor : layout_->tensors()) {
    const bool variance = tensor.name.ends_with("var");
    for (const float value : update.payloads[0].values->values(tensor)) {
      if (variance && value < 0) fail("round/update", "a negative variance in '", tensor.name, "'");
    }
  }
  update.payloads[0].weight = update.num_samples;
  sums_.add(client, update);
}

bool StatisticsErrand::finish(ParameterSet& model) const {
  if (sums_.num_updates() == 0) return false;
  const ParameterSet mean = sums_.mean(wire::kStatistics, layout_);
  for (const ParameterInfo& tensor : layout_->tensors())
    std::ranges::copy(mean.values(tensor), model.values(tensor.name).begin());
  return true;
}

}  // namespace espalier::round

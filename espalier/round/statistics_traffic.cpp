#include "espalier/round/statistics_traffic.h"

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier::round {

StatisticsTraffic::StatisticsTraffic(Setup setup, size_t num_clients, double max_weight)
    : setup_(std::move(setup)), sums_(num_clients, max_weight) {
  std::vector<ParameterInfo> tensors;
  for (const ParameterInfo& tensor : setup_.model->layout().tensors()) {
    if (tensor.role == Role::kStatistic)
      tensors.push_back({.name = tensor.name, .shape = tensor.shape, .role = tensor.role});
  }
  layout_ = std::make_shared<const ParameterLayout>(std::move(tensors));
  limits_ = {setup_.model->shared_layout(), layout_->size(), 1};
}

EncodedMessage StatisticsTraffic::task(uint64_t client) {
  strategy::Task task;
  task.kind = strategy::TaskKind::kCalibrate;
  task.round = setup_.info.round;
  task.client = client;
  task.train = setup_.info.train;
  task.units = setup_.units;
  task.payloads.push_back({strategy::kModel, setup_.model, 1});
  EncodedMessage message =
      encode_task(task, setup_.info.key.child(client), setup_.downlink,
                  setup_.info.key.child(Purpose::kDownlink), limits_, &encoded_);
  bytes_down += message.size_bytes();
  const std::lock_guard lock(mutex_);
  sent_[client] = message.size_bytes();
  return message;
}

void StatisticsTraffic::delivered(uint64_t client, const EncodedMessage& message) {
  bytes_up += message.size_bytes();
  try {
    strategy::Update update = decode_update(message, setup_.uplink, limits_);
    const auto held = static_cast<double>(setup_.backend.num_samples(client));
    if (update.payloads.size() != 1 || update.payloads[0].name != strategy::kStatistics ||
        !(update.payloads[0].values->layout() == *layout_) || update.num_samples != held) {
      fail("round/update", "expected the model's statistics over ", held, " samples");
    }
    for (const ParameterInfo& tensor : layout_->tensors()) {
      const bool variance = tensor.name.ends_with("var");
      for (const float value : update.payloads[0].values->values(tensor)) {
        if (variance && value < 0)
          fail("round/update", "a negative variance in '", tensor.name, "'");
      }
    }
    const double macs =
        update.scalars.contains(strategy::kMacs) ? update.scalar(strategy::kMacs) : 0;
    if (!(macs >= 0)) fail("round/update", "negative multiply-accumulates");
    update.payloads[0].weight = held;
    sums_.add(client, update);
    const std::lock_guard lock(mutex_);
    const DeviceTimes times =
        device_times(setup_.devices.of(client), sent_[client], macs, message.size_bytes());
    if (times.total() > slowest.total()) slowest = times;
  } catch (const Error& error) {
    failed(client, error.what());
  }
}

void StatisticsTraffic::failed(uint64_t client, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  failures[client] = reason;
}

void StatisticsTraffic::finish(ParameterSet& model) const {
  if (sums_.num_updates() == 0) return;
  const ParameterSet mean = sums_.mean(strategy::kStatistics, layout_);
  for (const ParameterInfo& tensor : layout_->tensors())
    std::ranges::copy(mean.values(tensor), model.values(tensor.name).begin());
}

}  // namespace espalier::round

#include "espalier/round/devices.h"

#include <cmath>

#include "espalier/base/error.h"

namespace espalier::round {

DeviceTimes device_times(const DeviceOptions& device, uint64_t bytes_down, double macs,
                         uint64_t bytes_up) {
  const auto seconds = [](double amount, double rate) { return rate > 0 ? amount / rate : 0.0; };
  return {seconds(8.0 * static_cast<double>(bytes_down), device.down_mbit * 1e6),
          seconds(macs, device.gmacs_per_second * 1e9),
          seconds(8.0 * static_cast<double>(bytes_up), device.up_mbit * 1e6)};
}

DeviceTable::DeviceTable(std::vector<DeviceOptions> devices, uint64_t num_clients, Key key)
    : devices_(std::move(devices)),
      given_(!devices_.empty()),
      num_clients_(num_clients),
      key_(key) {
  if (!given_) devices_.push_back({});
  double total = 0;
  for (size_t i = 0; i < devices_.size(); ++i) {
    if (given_ && devices_[i].name.empty())
      fail("config", "devices[", i, "] has no name; give every profile one");
    for (size_t j = 0; j < i; ++j) {
      if (devices_[j].name == devices_[i].name)
        fail("config", "two profiles in [[devices]] are called '", devices_[i].name, "'");
    }
    total += devices_[i].share;
  }
  double sum = 0;
  for (const DeviceOptions& device : devices_) {
    sum += device.share;
    ends_.push_back(
        static_cast<uint64_t>(std::llround(sum / total * static_cast<double>(num_clients))));
  }
  ends_.back() = num_clients;
}

bool DeviceTable::timed() const {
  for (const DeviceOptions& device : devices_) {
    if (device.gmacs_per_second > 0 || device.down_mbit > 0 || device.up_mbit > 0) return true;
  }
  return false;
}

size_t DeviceTable::index_of(uint64_t client) const {
  if (devices_.size() == 1) return 0;
  const uint64_t place = permuted(key_, num_clients_, client);
  size_t index = 0;
  while (place >= ends_[index]) ++index;
  return index;
}

std::vector<uint64_t> DeviceTable::clients_of(const std::string& name) const {
  std::vector<std::string> known;
  for (const DeviceOptions& device : devices_) known.push_back(device.name);
  const auto found = std::find(known.begin(), known.end(), name);
  if (!given_ || found == known.end())
    fail("config",
         unknown_name_message("device", name, given_ ? known : std::vector<std::string>{}));
  const auto wanted = static_cast<size_t>(found - known.begin());
  std::vector<uint64_t> clients;
  for (uint64_t client = 0; client < num_clients_; ++client) {
    if (index_of(client) == wanted) clients.push_back(client);
  }
  return clients;
}

}  // namespace espalier::round

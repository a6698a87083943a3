#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/base/random.h"

// What clients run on: profiles of the configuration ([[devices]]), which client has which, and a
// simulated clock. Times from here are simulated: they follow from bytes, multiply-accumulates and
// the profile's rates, and are called so wherever they are shown. Nothing waits for them, and no
// result but the reported times depends on them.
namespace espalier::round {

// One [[devices]] table.
struct DeviceOptions {
  std::string name;  // not empty, no other profile's
  double share = 1;  // above 0; only its ratio to the other profiles' counts
  // Ratio of kept units, in (0, 1]; 0: submodel.keep. Without [submodel] only 0 and 1 are allowed.
  double keep = 0;
  // Rates; 0: that part of a round takes no simulated time.
  double gmacs_per_second = 0;  // 10^9 multiply-accumulates per second
  double down_mbit = 0;         // 10^6 bits per second, to the client
  double up_mbit = 0;           // 10^6 bits per second, from the client
  // 10^6 bytes; 0: no limit. Compared with Trainer::training_bytes() of the profile's sub-model
  // before a simulation begins.
  double memory_mb = 0;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("name", self.name, Field("Name of the profile, shown in errors and reports."));
    visit("share", self.share,
          Field("Share of the clients that have it, relative to the other profiles.").above(0));
    visit("keep", self.keep,
          Field("Fraction of units in this device's sub-model; 0: submodel.keep.")
              .at_least(0)
              .at_most(1));
    visit(
        "gmacs_per_second", self.gmacs_per_second,
        Field("Compute rate, in 10^9 multiply-accumulates per second; 0: not timed.").at_least(0));
    visit("down_mbit", self.down_mbit,
          Field("Downlink, in 10^6 bits per second; 0: not timed.").at_least(0));
    visit("up_mbit", self.up_mbit,
          Field("Uplink, in 10^6 bits per second; 0: not timed.").at_least(0));
    visit("memory_mb", self.memory_mb,
          Field("Memory for training, in 10^6 bytes: a run whose sub-model needs more is refused; "
                "0: no limit.")
              .at_least(0));
  }
};

// Simulated seconds of one client in one round: the task's way down, its computation, the update's
// way up, one after the other. 0 where the profile has no rate.
struct DeviceTimes {
  double down = 0, compute = 0, up = 0;
  double total() const { return down + compute + up; }
  friend DeviceTimes operator+(const DeviceTimes& a, const DeviceTimes& b) {
    return {a.down + b.down, a.compute + b.compute, a.up + b.up};
  }
};
// Bytes as encoded, framing included; `macs`: multiply-accumulates of everything the client
// computed. seconds = amount / rate; latency and overlap are left out.
DeviceTimes device_times(const DeviceOptions& device, uint64_t bytes_down, double macs,
                         uint64_t bytes_up);

// Assigns profiles to clients. Every profile gets its share of the population to within one client,
// in an order drawn from the key; nothing is stored per client. Immutable: any number of threads
// may use one.
class DeviceTable {
 public:
  // Without profiles, every client has an empty one. Who has which profile follows from the key,
  // the order of profiles and their shares, and stays for the whole run. Throws Error when two
  // profiles share a name or one has none.
  DeviceTable(std::vector<DeviceOptions> devices, uint64_t num_clients, Key key);

  // Whether the configuration has no profiles; devices() then holds one without name and rates.
  bool empty() const { return !given_; }
  // Whether any profile has a rate, so that there is a clock to show.
  bool timed() const;
  // The profiles in the order of the configuration.
  const std::vector<DeviceOptions>& devices() const { return devices_; }
  // Index into devices(); client < num_clients. O(1) but for the number of profiles.
  size_t index_of(uint64_t client) const;
  const DeviceOptions& of(uint64_t client) const { return devices_[index_of(client)]; }
  // All clients of the profile called `name`, increasing. Looks at every client. An Error for an
  // unknown name, and for any name when there are no profiles.
  std::vector<uint64_t> clients_of(const std::string& name) const;

 private:
  std::vector<DeviceOptions> devices_;
  std::vector<uint64_t> ends_;  // of each profile's clients in permuted order
  bool given_;
  uint64_t num_clients_;
  Key key_;
};

}  // namespace espalier::round

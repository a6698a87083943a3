#pragma once

#include <memory>
#include <string>

#include "espalier/client/algorithm.h"

namespace espalier::strategy {

// What ADP's client must know; the options of the algorithm that it wraps stand in the same table.
struct AdpClientOptions {
  // gated and fbs: the model has gates of that kind; magnitude: small weights become 0.
  std::string mode = "gated";
  // The client algorithm that trains, by name; any but this one.
  std::string base = "fedavg";
  // magnitude: after every local epoch |w| ≤ threshold becomes 0 (≥ 0) and the learning rate is
  // multiplied by the decay, above 0 and at most 1.
  double threshold = 1e-3;
  double epoch_lr_decay = 0.99;
  // Whether updates name the values that have changed and leave the others out.
  bool sparse_updates = true;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("mode", self.mode, Field("Of the strategy.").one_of({"gated", "fbs", "magnitude"}));
    visit("base", self.base, Field("The algorithm that trains, by name."));
    visit("threshold", self.threshold, Field("Magnitude at which weights become 0.").at_least(0));
    visit("epoch_lr_decay", self.epoch_lr_decay,
          Field("Factor on the learning rate after every local epoch.").above(0).at_most(1));
    visit("sparse_updates", self.sparse_updates,
          Field("Leave out of updates what has not changed."));
  }
};

// ADP's client (Yu et al. 2021; adp.h): another algorithm trains, by ADP's rules for weights that
// no sample touched or that are small, and its update names what has changed.
class AdpClient final : public client::ClientAlgorithm {
 public:
  static constexpr const char* kName = "adp";
  // Creating one throws Error for an unknown base, for itself as its base, and for options that
  // neither of the two has.
  static client::AlgorithmRow row();
  AdpClient(AdpClientOptions options, std::unique_ptr<client::ClientAlgorithm> base)
      : options_(std::move(options)), base_(std::move(base)) {}
  // The base's update; with sparse_updates under a mask of what has changed, unless all of it has.
  wire::Update run(client::ClientContext& context, const wire::Task& task) const override;

 private:
  bool gated() const { return options_.mode != "magnitude"; }

  AdpClientOptions options_;
  std::unique_ptr<client::ClientAlgorithm> base_;  // trains
};

}  // namespace espalier::strategy

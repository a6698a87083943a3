#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/round/devices.h"
#include "espalier/strategy/strategy.h"
#include "espalier/submodel/selection.h"

namespace espalier::round {

// [submodel]
struct SubmodelOptions {
  std::string name = "none";
  double keep = 0.75;
  bool shared = false;
  std::string aggregation = "auto";
  std::vector<double> widths;
  double self_distillation = 0;
  double temperature = 1;
  bool scaler = false;
  bool masked_cross_entropy = false;
  bool static_batch_norm = false;
  std::vector<double> eval_widths;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("name", self.name,
          Field("Which units a client keeps; `espalier list submodels` shows all; none: everybody "
                "trains the whole model."));
    visit(
        "keep", self.keep,
        Field("Fraction of units kept in every hidden layer; a device of [[devices]] may have its "
              "own.")
            .above(0)
            .at_most(1));
    visit("shared", self.shared,
          Field("federated-dropout: one random sub-model per round for all clients, instead of one "
                "per client."));
    visit(
        "aggregation", self.aggregation,
        Field("zero: a value outside a client's sub-model counts as a zero update (Caldas et al. "
              "2018); count: every value is averaged over the clients that trained it (HeteroFL); "
              "auto: zero for federated-dropout, count for the others.")
            .one_of({"auto", "zero", "count"}));
    visit("widths", self.widths,
          Field("ordered: fractions of which every local step draws one, up to the client's own "
                "(FjORD); empty: every step trains the client's whole sub-model.")
              .above(0)
              .at_most(1));
    visit("self_distillation", self.self_distillation,
          Field("With widths: weight of distillation from the client's whole sub-model (FjORD); 0 "
                "is off.")
              .at_least(0)
              .at_most(1));
    visit("temperature", self.temperature, Field("With self_distillation: temperature.").above(0));
    visit("scaler", self.scaler,
          Field("Scale hidden outputs by 1/keep while training, and in eval_widths (HeteroFL)."));
    visit("masked_cross_entropy", self.masked_cross_entropy,
          Field("Count logits of classes that a client has no samples of as 0 (HeteroFL)."));
    visit("static_batch_norm", self.static_batch_norm,
          Field("Clients train without running statistics; before an evaluation, this round's "
                "clients compute them, each for widths that it can hold, in an exchange of its own "
                "(HeteroFL); needs clients of keep = 1."));
    visit("eval_widths", self.eval_widths,
          Field("Also evaluate the global model's sub-models of these fractions (the first units).")
              .above(0)
              .at_most(1));
  }
};

// Whether every client trains the whole model, and whether every client trains the same units in
// every round (the whole model, or the first units): then what it remembers still fits.
bool all_whole(const SubmodelOptions& submodel, const std::vector<DeviceOptions>& devices);
bool units_stay(const SubmodelOptions& submodel, const std::vector<DeviceOptions>& devices);
// The ratio of a client on this device.
double keep_of(const SubmodelOptions& submodel, const DeviceOptions& device);

// What the sub-models of a run are: which client gets which units in which round, and how it trains
// them. Thread-safe.
class SubmodelPlan {
 public:
  // Throws Error when an option does not go with the method, the model or the devices.
  SubmodelPlan(SubmodelOptions options, std::shared_ptr<const ParameterLayout> layout,
               const std::vector<DeviceOptions>& devices = {});

  // Whether there are sub-models at all.
  bool active() const { return method_ != nullptr; }
  // Whether clients of one ratio train different units in the same round.
  bool differs_by_client() const { return active() && method_->random && !options_.shared; }
  strategy::Aggregation aggregation() const;
  const SubmodelOptions& options() const { return options_; }

  double keep(const DeviceTable& devices, uint64_t client) const {
    return keep_of(options_, devices.of(client));
  }
  // The sub-model of a client; null when it trains the whole model.
  std::shared_ptr<const submodel::Submodel> choose(const strategy::RoundInfo& round,
                                                   uint64_t client, double keep);
  train::SubmodelTraining training(double keep) const;
  // The sub-model that a width is evaluated as: the first units; null for the whole model.
  std::shared_ptr<const submodel::Submodel> at_width(double keep) const;

 private:
  SubmodelOptions options_;
  std::shared_ptr<const ParameterLayout> layout_;
  const submodel::SelectionRow* method_ = nullptr;
  std::mutex mutex_;
  uint32_t cached_round_ = 0;
  std::map<double, std::shared_ptr<const submodel::Submodel>> cached_;  // by ratio, of one round
};

}  // namespace espalier::round

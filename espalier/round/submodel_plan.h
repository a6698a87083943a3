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

// [submodel]: clients train physically smaller networks (Federated Dropout, Caldas et al. 2018;
// HeteroFL, Diao et al. 2021; FjORD, Horváth et al. 2021; FedRolex, Alam et al. 2022). A ratio in
// (0, 1] keeps max(1, round(ratio·n)) of the n units of every group; inputs and logits are in no
// group. docs/algorithms/submodels.md says how we differ from the papers.
struct SubmodelOptions {
  // A row of selection_rows(), or "none"; then every other option must have its default.
  std::string name = "none";
  // Ratio of kept units, in (0, 1]; 1: the whole model. Devices may have their own.
  double keep = 0.75;
  // All clients of a ratio then have one sub-model per round. Only with a random method: the others
  // choose so anyway.
  bool shared = false;
  // Rounds for which a choice stays; 0: for the whole run. Not with "ordered", whose choice stays
  // anyway, nor with "importance", whose scores are those of the round.
  int64_t stay_rounds = 1;
  // Rounds up to this one, and from that one on, in which everybody trains the whole model; 0:
  // none. Not with widths nor with devices that have ratios of their own.
  int64_t whole_until = 0, whole_from = 0;
  // Fresh weights are those of the first units' net alone (submodel/growth.h). Only with "ordered"
  // and whole_from, and not with scaler.
  bool grow = false;
  // Unit groups that are whole in every sub-model, by name.
  std::vector<std::string> whole_layers;
  // With "count", a value is divided by the weight of the clients that hold it, with "zero" by that
  // of all; one that nobody holds keeps its bits either way (sum_rules.h).
  std::string aggregation = "auto";
  // Ratios in (0, 1], at most 32; only with "ordered", where sub-models are nested. A client draws
  // from its own ratio and those below it.
  std::vector<double> widths;
  // α in [0, 1]: the loss of a narrower width is (1 − α)·CE + α·KD. Needs widths; 0 is off.
  double self_distillation = 0;
  // Of that distillation's softmax, above 0. Needs self_distillation unless it is 1.
  double temperature = 1;
  // Outputs times 1/ratio. Not with widths, whose ratio changes from step to step.
  bool scaler = false;
  // HeteroFL's other two rules; see train::SubmodelTraining. The second needs a model with running
  // statistics and a device that holds all of it.
  bool masked_cross_entropy = false;
  bool static_batch_norm = false;
  // Ratios in (0, 1], in any order; empty: only the whole model. RoundRecord::width_accuracy.
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
    visit("stay_rounds", self.stay_rounds,
          Field("Rounds for which a random choice stays, or after which a rolling window moves on; "
                "0: a client keeps its units for the whole run.")
              .at_least(0)
              .at_most(1e9));
    visit("whole_until", self.whole_until,
          Field("Rounds up to this one train the whole model; 0: none.").at_least(0).at_most(1e9));
    visit(
        "whole_from", self.whole_from,
        Field("Rounds from this one on train the whole model; 0: none.").at_least(0).at_most(1e9));
    visit(
        "grow", self.grow,
        Field("ordered, with whole_from: begin with the weights of the small net alone; the other "
              "units feed nothing until they are trained."));
    visit("whole_layers", self.whole_layers,
          Field("Layers whose units all stay in every sub-model; a name that is not there is "
                "answered with those that are."));
    visit(
        "aggregation", self.aggregation,
        Field("zero: a value outside a client's sub-model counts as a zero update (Caldas et al. "
              "2018); count: every value is averaged over the clients that trained it (HeteroFL); "
              "auto: zero where units are random, count for the others.")
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

// Without devices there is one ratio, submodel.keep. Functions of their arguments: any thread.
//
// Whether every client trains the whole model in every round.
bool all_whole(const SubmodelOptions& submodel, const std::vector<DeviceOptions>& devices);
// Whether some rounds train the whole model whatever the ratio.
bool has_whole_rounds(const SubmodelOptions& submodel);
// Whether a client trains the same units in every round (the whole model, the first units, or its
// own for the whole run): then what it remembers still fits. units_common: and all clients of one
// ratio train the same.
bool units_stay(const SubmodelOptions& submodel, const std::vector<DeviceOptions>& devices);
bool units_common(const SubmodelOptions& submodel, const std::vector<DeviceOptions>& devices);
// The ratio of a client on this device: its own, else the section's; 1 without sub-models.
double keep_of(const SubmodelOptions& submodel, const DeviceOptions& device);

// What the sub-models of a run are: which client gets which units in which round, and how it trains
// them. Thread-safe. Choices are functions of round, ratio, client and seed, so asking again gives
// the same units; memory is that of the maps of one round's ratios.
class SubmodelPlan {
 public:
  // `layout` is the whole model's, `run` the run's key. Throws Error when an option does not go
  // with the method, the model or the devices: a model without unit groups has no sub-models, for
  // instance. Does not look at the strategy (round/refusals.h).
  SubmodelPlan(SubmodelOptions options, std::shared_ptr<const ParameterLayout> layout, Key run,
               const std::vector<DeviceOptions>& devices = {});

  // Whether there are sub-models at all.
  bool active() const { return method_ != nullptr; }
  // Whether clients of one ratio train different units in the same round, so that each has payloads
  // of its own.
  bool differs_by_client() const { return active() && method_->random && !options_.shared; }
  // How the parts become one mean: "auto" is zero for random methods and without sub-models, else
  // count.
  std::shared_ptr<const strategy::SumRule> aggregation() const;
  // As configured: "auto" is not resolved in it.
  const SubmodelOptions& options() const { return options_; }

  // The model that the first round begins with: `fresh`, or with submodel.grow the small net in it.
  ParameterSet begin(ParameterSet fresh) const;

  // The ratio of a client in a round, in (0, 1]; 1 in a round that trains the whole model.
  double keep(const DeviceTable& devices, uint64_t client, uint32_t round) const;
  // Units of every group for a ratio; Error outside (0, 1].
  std::vector<int64_t> units(double keep) const;
  // The sub-model of a client in a round that starts with the weights `global`; null when it trains
  // the whole model. `keep` is the client's; Error outside (0, 1]. In a round, clients that share
  // their units share the object too, so that what is made of it is made once.
  std::shared_ptr<const submodel::Submodel> choose(uint32_t round, uint64_t client, double keep,
                                                   const ParameterSet& global);
  // How a client of this ratio trains: unit counts of the widths that it can draw, and HeteroFL's
  // rules. The default, plain training, without sub-models.
  train::SubmodelTraining training(double keep) const;
  // The sub-model that a width is evaluated as: the first units, whatever the method; null for the
  // whole model. Error for a ratio outside (0, 1].
  std::shared_ptr<const submodel::Submodel> at_width(double keep) const;

 private:
  void check(const std::vector<DeviceOptions>& devices) const;
  std::shared_ptr<const submodel::UnitScores> scores(uint32_t round, const ParameterSet& global);

  SubmodelOptions options_;
  std::shared_ptr<const ParameterLayout> layout_;
  Key run_{0};
  const submodel::SelectionRow* method_ = nullptr;  // null: no sub-models
  std::mutex mutex_;                                // of what is below
  // Only where clients of one ratio share their sub-model: by ratio, of one round.
  uint32_t cached_round_ = 0;
  std::map<double, std::shared_ptr<const submodel::Submodel>> cached_;
  // Only where the method asks for them: of one round's weights.
  uint32_t scored_round_ = 0;
  std::shared_ptr<const submodel::UnitScores> scores_;
};

}  // namespace espalier::round

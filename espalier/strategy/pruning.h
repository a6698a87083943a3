#pragma once

#include <memory>
#include <string>
#include <vector>

#include "espalier/prune/criteria.h"
#include "espalier/prune/structure.h"
#include "espalier/strategy/explorer_store.h"
#include "espalier/strategy/fedavg.h"

// Federated training under a mask: AutoFLIP and the pruning methods it is compared with, which are
// rows of one registry of criteria (prune/criteria.h). docs/algorithms/autoflip.md has the method
// step by step.
namespace espalier::strategy {

// Options that AutoFLIP and the other criteria share. What a criterion has no use for must have its
// default: the constructor of Pruning throws Error otherwise.
struct PruningOptions : WeightingOptions {
  // T_p, in [0, 1): the ⌈T_p·n⌉ smallest scores of all n prunable values, pooled over tensors, are
  // pruned, and whatever equals the largest of them; 0 prunes nothing.
  double sparsity = 0.5;
  // "all": weights, embeddings, biases and normalization; "weights": the first two.
  std::string tensors = "all";
  // Needs a model that states unit groups (params/layout.h). Values that compute no unit keep
  // scores of their own.
  bool by_unit = false;
  // Share of a unit's incoming weights, in [0, 1); 0: units are never removed. Needs unit groups
  // too. One unit of every group stays in any case, and removed units do not come back.
  double unit_threshold = 0;
  // Share of a tensor's values, in [0, 1 − sparsity]: at least ⌈min_keep·n⌉ of n stay, those of the
  // highest scores; 0: a tensor may lose all of them (a note then says so of weights).
  double min_keep = 0;
  // In rounds; 0: one mask for the whole run (with end_round: a step in every round). Without
  // end_round only for criteria that clients have evidence for ("deviation", "prunefl").
  int64_t refresh_rounds = 0;
  // β, in [0, 1); 0: no momentum and no memory for it. The momentum is masked with the weights.
  double server_momentum = 0;
  // In (0, 1]: ⌈explorers·N⌉ of the N clients. This and the next three are for criteria with
  // evidence; ExplorationOptions says what a client makes of them.
  double explorers = 1.0;
  int64_t exploration_epochs = 150;
  int64_t exploration_patience = 40;
  double exploration_holdout = 0.1;
  // AutoFLIP's.
  // How D becomes G within a tensor; where the denominator is 0, G is 0 for the whole tensor.
  std::string guidance = "minmax";
  // a, in [0, 1], a share of the explorers' weight; 0: D is their plain mean and nobody votes. With
  // it their deviations wait on disk, a model's size of float32 each.
  double agreement = 0;
  bool init_from_exploration = false;
  // The others'.
  // A row of prune::criterion_rows().
  std::string criterion = "magnitude";
  // 1-based, at most the last round of the run. The sparsity is reached before end_round begins; 0:
  // before start_round. Not below start_round, and only for criteria that the server scores alone.
  int64_t start_round = 1, end_round = 0;
  // PruneFL's time model (Jiang et al. 2022): a value of a tensor costs a training step b + a·(its
  // multiply-accumulates), a in [0, 1] and b in (0, 1] seconds. Only their ratio changes a mask.
  double seconds_per_mac = 1e-11, seconds_per_value = 2e-10;

  template <class Self, class Visitor>
  static void shared_fields(Self& self, Visitor&& visit) {
    WeightingOptions::fields(self, visit);
    visit(
        "sparsity", self.sparsity,
        Field("Share of all weights that are pruned, T_p, or more: removed units take the weights "
              "that read them along.")
            .at_least(0)
            .below(1));
    visit("tensors", self.tensors,
          Field("What may be pruned: all trained tensors, or weights and embeddings only (biases "
                "and normalization stay).")
              .one_of({"all", "weights"}));
    visit("by_unit", self.by_unit,
          Field("Score whole units (filters, neurons) by the mean of their incoming weights, so "
                "that they are pruned as a whole."));
    visit("unit_threshold", self.unit_threshold,
          Field("Remove a unit with all its weights, so that a smaller network travels and trains, "
                "when more than this share of its incoming weights is pruned; 0: never.")
              .at_least(0)
              .below(1));
    visit("min_keep", self.min_keep,
          Field("At least this share of every tensor (with by_unit: of every layer's units) stays.")
              .at_least(0)
              .at_most(1));
    visit("refresh_rounds", self.refresh_rounds,
          Field("Prune anew in the rounds start_round + R, start_round + 2R, … (not in the last) "
                "with what that round's clients "
                "report; they then train and send all weights of the units that are left. 0: "
                "never. With end_round: rounds between two steps; 0 is every round.")
              .at_least(0));
    visit("server_momentum", self.server_momentum,
          Field("Server momentum β: v ← βv + (1−β)·mean(w − w_k), w ← w − v; 0 is FedAvg.")
              .at_least(0)
              .below(1));
    visit("explorers", self.explorers,
          Field("Share of the clients that explore before the first mask.").above(0).at_most(1));
    visit("exploration_epochs", self.exploration_epochs,
          Field("Epochs that a client explores at most.").at_least(1));
    visit(
        "exploration_patience", self.exploration_patience,
        Field("A client stops exploring after this many epochs without a lower loss.").at_least(1));
    visit("exploration_holdout", self.exploration_holdout,
          Field("Share of a client's samples that it holds out for that loss; 0: it watches the "
                "mean training loss of the epoch.")
              .at_least(0)
              .at_most(0.9));
  }

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("criterion", self.criterion,
          Field("What decides which weights go; `espalier list criteria` shows all."));
    shared_fields(self, visit);
    visit("start_round", self.start_round,
          Field("The round before which pruning begins.").at_least(1).at_most(1e9));
    visit("end_round", self.end_round,
          Field("Raise the sparsity gradually until this round, s·(1 − (1 − t)³) with t = (r − "
                "start + 1)/(end − start + 1) in round r (Zhu and Gupta 2017); 0: at once.")
              .at_least(0)
              .at_most(1e9));
    visit("seconds_per_mac", self.seconds_per_mac,
          Field("prunefl: training time per multiply-accumulate; prune_time_bench measures it.")
              .at_least(0)
              .at_most(1));
    visit("seconds_per_value", self.seconds_per_value,
          Field("prunefl: training time per step and weight, whatever it multiplies.")
              .above(0)
              .at_most(1));
  }
};

// strategy.name = "autoflip": the criterion is fixed, and sparsity and momentum have defaults of
// their own.
struct AutoFlipOptions : PruningOptions {
  AutoFlipOptions() {
    criterion = "deviation";
    sparsity = 0.3;
    server_momentum = 0.9;
  }
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    shared_fields(self, visit);
    visit("guidance", self.guidance,
          Field("How a tensor's deviations become comparable: (D − min)/(max − min), or robust, (D "
                "− median)/(q75 − q25).")
              .one_of({"minmax", "robust"}));
    visit("agreement", self.agreement,
          Field("Weigh explorers by how well their rankings agree, and keep only weights that "
                "explorers of at least this share of the weight would keep; 0 is off.")
              .at_least(0)
              .at_most(1));
    visit("init_from_exploration", self.init_from_exploration,
          Field("Start from the mean of the explored weights, weighted by `weighting`, instead of "
                "the initial ones."));
  }
};

// The mask m is chosen once (or every refresh_rounds) from scores of all weights; clients apply it
// after every optimizer step and send only what it keeps; the server applies it after its own step:
//   v ← m ⊙ (βv + (1−β) Σ n_k/n (w − w_k));  w ← m ⊙ (w − v).
// With unit_threshold, units whose incoming weights are mostly pruned are taken out of the network
// by the unit groups of sub-models, and the model that travels and trains is physically smaller.
//
// AutoFLIP (Internò, Raponi, van Stein, Bäck, Olhofer, Jin, Hammer 2024, arXiv 2405.10271): scores
// are the deviations of weights that explorers trained independently from w0. The released code
// explores one after the other on one shared model and goes on from it; here that is
// init_from_exploration, which starts from the mean instead. In a round that refreshes, the
// deviations are those of that round's unmasked training. The server squares what has arrived, so
// that nothing more travels than the dense update; where the uplink would spoil that (it is biased
// or leaves values out, wire::Coding::kFaithful), clients send the squares too, as float32.
//
// Further differences from that code: the mask holds in every step of training, and an explorer
// stops by the loss on samples that it holds out. The agreement of explorers is ours; the paper's
// later versions publish no formula for theirs.
//
// Magnitude pruning may be gradual (Zhu and Gupta 2017: s = T_p·(1 − (1 − t)³)), PruneFL (Jiang et
// al. 2022) prunes the smallest squared gradients per second of training time; it chooses its
// sparsity itself in the paper, here `sparsity` says it.
//
// Memory: one bit per value for a mask, one model for the momentum; an exploration or a refresh
// adds two sums of 8 bytes per value. Called as Strategy says; accumulate() and check() by any
// thread.
class Pruning : public FedAvg, private Preparation, private Narrowing {
 public:
  using Options = PruningOptions;
  // Throws Error for an unknown criterion and for options that it has no use for.
  explicit Pruning(const Options& options);

  Traits traits() const override;
  Capabilities capabilities() override { return {.preparation = this, .narrowing = this}; }
  // Throws Error when units are to be pruned and the model states none, and for "prunefl" with a
  // TorchScript module, whose multiply-accumulates are not known.
  void start(const ServerSetup& setup) override;
  // Adds mask, sub-model and "refresh" to a task of training; an exploration gets the whole model.
  // Throws Error, in the first round, when start_round or end_round is after the last.
  void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                 Task& task) override;
  // "delta", with "importance" or "deviation" where a refresh needs it; of an exploration
  // "deviation" or "importance", and "explored" with init_from_exploration.
  std::vector<std::string> update_payloads(const RoundInfo& round) const override;
  // Refuses negative squares too, unless the uplink codes them: then noise may make some.
  void check(const RoundInfo& round, const ParameterLayout& layout, double num_samples,
             const Update& update) const override;
  void accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                  RoundSums& sums) override;
  // Steps, chooses a new mask where it is due, and applies it. Throws Error when all weights would
  // be pruned, as where all scores are equal.
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;
  // Figures "mask_kept" (share of the trained values that are left), "part_parameters" (trained
  // values of the smaller network, once units have gone) and "exploration_epochs".
  RoundReport take_report() override;
  void save(ByteWriter& out) const override;
  // Throws Error for a mask, units or momentum of another model; this is then of no use.
  void load(ByteReader& in) override;

  // Over the whole model's layout, also when units have gone; valid until the next one. Null before
  // the first pruning.
  const prune::Mask* mask() const { return whole_mask_ ? &whole_mask_->mask : nullptr; }

 private:
  void begin_round(const RoundInfo& round, ParameterSet& global) override;
  uint64_t explorers(const RoundInfo& round) const override;
  std::shared_ptr<const submodel::Submodel> part() const override { return part_; }
  // The mask's share for a round, before which it is chosen by the server alone.
  double sparsity_at(uint32_t round) const;
  // Whether clients explore before this round's training, and whether this round's clients train
  // and send what the next mask is chosen from.
  bool explores(const RoundInfo& round) const;
  bool refreshes(const RoundInfo& round) const;
  prune::PruneRule rule(double sparsity) const;
  prune::Evidence evidence() const;
  // adopt() takes units along and notes what is left; install() makes what travels. `since`: the
  // first round whose tasks carry the mask.
  void adopt(prune::Mask mask, uint32_t since);
  void install(prune::Mask mask, std::vector<std::vector<uint32_t>> kept, uint32_t since);
  void apply_mask(ParameterSet& global);
  void finish_exploration(const RoundInfo& round, const RoundSums& sums, ParameterSet& global);
  // The mask that explorers agree on, from what they sent one by one.
  prune::Mask agreed_mask();

  Options options_;
  const prune::CriterionRow& row_;
  std::filesystem::path scratch_;
  uint64_t num_clients_ = 0;
  Key key_{0};
  bool exact_evidence_ = true;  // squares arrive as they were sent
  bool sends_squares_ = false;  // … of changes too, in a refresh: what arrives does not tell
  std::vector<double> value_seconds_;  // of prune::Evidence, by tensor; "prunefl" only
  ParameterSet velocity_;              // v; empty without server_momentum
  std::shared_ptr<const TravellingMask> whole_mask_, part_mask_;  // of the model, of part_
  std::shared_ptr<const submodel::Submodel> part_;                // null: no unit has gone
  std::unique_ptr<ExplorerStore> explored_;                       // with agreement
  std::vector<std::string> notes_;                                // of the last mask, once
  double exploration_epochs_ = 0;                                 // mean of the explorers
};

// Its options differ; the code is the same. A class of its own because a row of the registry is
// one.
class AutoFlip : public Pruning {
 public:
  using Options = AutoFlipOptions;
  explicit AutoFlip(const Options& options) : Pruning(options) {}
};

}  // namespace espalier::strategy

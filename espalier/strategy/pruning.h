#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "espalier/prune/criteria.h"
#include "espalier/prune/structure.h"
#include "espalier/strategy/explorer_store.h"
#include "espalier/strategy/fedavg.h"

// Federated training under a mask: AutoFLIP and the pruning methods it is compared with, which are
// rows of one registry of criteria (prune/criteria.h).
namespace espalier::strategy {

// Options that AutoFLIP and the other criteria share.
struct PruningOptions : WeightingOptions {
  double sparsity = 0.5;
  std::string tensors = "all";
  bool by_unit = false;
  double unit_threshold = 0;
  double min_keep = 0;
  int64_t refresh_rounds = 0;
  double server_momentum = 0;
  double explorers = 1.0;
  int64_t exploration_epochs = 150;
  int64_t exploration_patience = 40;
  double exploration_holdout = 0.1;
  // AutoFLIP's.
  std::string guidance = "minmax";
  double agreement = 0;
  bool init_from_exploration = false;
  // The others'.
  std::string criterion = "magnitude";
  int64_t start_round = 1, end_round = 0;
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
          Field("Prune anew every so many rounds (not in the last) with what that round's clients "
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
          Field("Share of a client's samples that it holds out for that loss; 0: the training "
                "loss.")
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
          Field("Raise the sparsity gradually until this round, s·(1 − (1 − t)³) (Zhu and Gupta "
                "2017); 0: at once.")
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
          Field("Start from the mean of the explored weights instead of the initial ones."));
  }
};

inline constexpr const char* kDeviation = "deviation";    // (w^k − w0)², of an explorer
inline constexpr const char* kImportance = "importance";  // mean squared gradient over its steps
inline constexpr const char* kExplored = "explored";      // w^k − w0
// Scalar of a task: train without the mask, or report importances too.
inline constexpr const char* kRefresh = "refresh";
inline constexpr const char* kExplorationEpochs = "exploration_epochs";  // scalar

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
// deviations are those of that round's unmasked training, which the server squares itself:
// nothing more travels than the dense update.
class Pruning : public FedAvg {
 public:
  using Options = PruningOptions;
  explicit Pruning(const Options& options);

  void start(const ServerSetup& setup) override;
  void set_scratch(const std::filesystem::path& folder) override { scratch_ = folder; }
  bool prepares() const override { return true; }
  void begin_round(const RoundInfo& round, ParameterSet& global) override;
  uint64_t explorers(const RoundInfo& round) const override;
  void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                 Task& task) override;
  std::vector<std::string> update_payloads(const RoundInfo& round) const override;
  void check(const RoundInfo& round, const ParameterLayout& layout, double num_samples,
             const Update& update) const override;
  void accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                  RoundSums& sums) override;
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;
  std::shared_ptr<const submodel::Submodel> part() const override { return part_; }
  bool masks() const override { return !row_.every_step; }
  bool has_client_state() const override { return masks(); }
  std::map<std::string, double> metrics() const override;
  std::vector<std::string> take_notes() override;
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;

  Update run_client(ClientContext& context, const Task& task) const override;

  // Null before the first pruning.
  const prune::Mask* mask() const { return whole_mask_ ? &whole_mask_->mask : nullptr; }

 private:
  // The mask's share for a round, before which it is chosen by the server alone.
  double sparsity_at(uint32_t round) const;
  bool explores(const RoundInfo& round) const;
  bool refreshes(const RoundInfo& round) const;
  prune::PruneRule rule(double sparsity) const;
  prune::Evidence evidence() const;
  void adopt(prune::Mask mask, uint32_t since);
  void install(prune::Mask mask, std::vector<std::vector<uint32_t>> kept, uint32_t since);
  void apply_mask(ParameterSet& global);
  void finish_exploration(const RoundInfo& round, const RoundSums& sums, ParameterSet& global);
  prune::Mask agreed_mask();
  Update explore(ClientContext& context, const Task& task) const;

  Options options_;
  const prune::CriterionRow& row_;
  std::filesystem::path scratch_;
  uint64_t num_clients_ = 0;
  Key key_{0};
  bool exact_evidence_ = true;  // squares arrive as they were sent
  std::vector<double> value_seconds_;
  ParameterSet velocity_;
  std::shared_ptr<const TravellingMask> whole_mask_, part_mask_;  // of the model, of part_
  std::shared_ptr<const submodel::Submodel> part_;                // null: no unit has gone
  std::unique_ptr<ExplorerStore> explored_;                       // with agreement
  std::vector<std::string> notes_;
  double exploration_epochs_ = 0;  // mean of the explorers
};

// Its options differ; the code is the same.
class AutoFlip : public Pruning {
 public:
  using Options = AutoFlipOptions;
  explicit AutoFlip(const Options& options) : Pruning(options) {}
};

}  // namespace espalier::strategy

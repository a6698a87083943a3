#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "espalier/strategy/strategy.h"

namespace espalier::strategy {

struct AdpOptions {
  // Which of the authors' two methods: gates (of the kind that the model has), or small weights.
  std::string mode = "gated";
  // The strategy whose server half is used as it is, and whose client half trains.
  std::string base = "fedavg";
  // Gates: the share of a layer's channels that survive for a sample, and over how many rounds it
  // falls from 1 to that; 0: at once.
  double ratio = 0.7;
  int64_t ratio_rounds = 0;
  // Gates: rounds at a ratio of 1 before that.
  int64_t ratio_start = 0;
  // Magnitude: what becomes 0 after an epoch, and the factor on the learning rate then.
  double threshold = 1e-3;
  double epoch_lr_decay = 0.99;
  // Whether updates leave out what a client has not changed; rules out what masks rule out.
  bool sparse_updates = true;
  // The base's own: FedProx's μ, and the weight of a client.
  double mu = 0.01;
  std::string weighting = "samples";

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit(
        "mode", self.mode,
        Field("gated, fbs: gates choose the channels of every sample (the model needs model.gates "
              "of that name); magnitude: small convolution weights become 0 after every local "
              "epoch, and may grow again.")
            .one_of({"gated", "fbs", "magnitude"}));
    visit("base", self.base,
          Field("How clients' updates become the next model.")
              .one_of({"fedavg", "fedprox", "fednova", "scaffold"}));
    visit("ratio", self.ratio,
          Field("gated, fbs: share of a layer's channels that survive for a sample.")
              .above(0)
              .at_most(1));
    visit("ratio_rounds", self.ratio_rounds,
          Field("gated, fbs: lower the ratio from 1 over so many rounds; 0: at once.")
              .at_least(0)
              .at_most(1e9));
    visit("ratio_start", self.ratio_start,
          Field("gated, fbs: rounds before that, in which all channels survive that their gates "
                "let through.")
              .at_least(0)
              .at_most(1e9));
    visit("threshold", self.threshold,
          Field("magnitude: weights of at most this magnitude become 0.").at_least(0));
    visit("epoch_lr_decay", self.epoch_lr_decay,
          Field("magnitude: factor on the learning rate after every local epoch.")
              .above(0)
              .at_most(1));
    visit("sparse_updates", self.sparse_updates,
          Field("Leave out of updates what a client has not changed: filters whose gate never "
                "fired, weights that stayed 0."));
    visit("mu", self.mu, Field("base fedprox: weight of the proximal term.").at_least(0));
    visit("weighting", self.weighting,
          Field("Weight of a client in the mean: its number of samples, or 1.")
              .one_of({"samples", "uniform"}));
  }
};

// Adaptive dynamic pruning (Yu, Nguyen, Anwar, Jannesari 2021, arXiv 2106.06921) over another
// strategy, whose server half it leaves as it is.
//
// gated and fbs: the gates are part of the model (nn/gates.h): for every sample only salient
// channels are computed and get a gradient. Here the share that survives is set, round by round, in
// the global model, where everybody who receives or loads it finds it. A filter whose gate never
// fired for a client's samples has no gradient; weight decay, which would move it all the same, is
// taken back, so that its update is zero, and updates say which rows of which tensors they have and
// only these. (With SCAFFOLD the control variates move such filters, and they are sent; that is
// SCAFFOLD's doing and left alone.)
//
// magnitude: the second code base of the authors. After every local epoch the weights of
// convolutions with |w| ≤ threshold become 0; no mask is kept.
//
// The paper sends dense updates and counts rounds; here the bytes of a round shrink too.
class Adp : public Strategy, private Preparation {
 public:
  using Options = AdpOptions;
  explicit Adp(const Options& options);

  Traits traits() const override;
  Capabilities capabilities() override { return {.preparation = this}; }
  void start(const ServerSetup& setup) override;
  void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                 Task& task) override;
  std::vector<std::string> update_payloads(const RoundInfo& round) const override;
  void accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                  RoundSums& sums) override;
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;
  RoundReport take_report() override;
  void save(ByteWriter& out) const override { base_->save(out); }
  void load(ByteReader& in) override { base_->load(in); }

  // The share of channels that survive in a round (1-based), linear in between.
  double ratio_at(uint32_t round) const;

 private:
  void begin_round(const RoundInfo& round, ParameterSet& global) override;
  uint64_t explorers(const RoundInfo&) const override { return 0; }
  bool gated() const { return options_.mode != "magnitude"; }

  Options options_;
  std::unique_ptr<Strategy> base_;                      // its server half decides
  double ratio_ = 1;                                    // of the round
  std::atomic<uint64_t> values_ = 0, sent_values_ = 0;  // of the round's updates
};

}  // namespace espalier::strategy

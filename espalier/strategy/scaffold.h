#pragma once

#include "espalier/strategy/fedavg.h"

namespace espalier::strategy {

struct ScaffoldOptions : WeightingOptions {
  // η_g, above 0. On Δy alone: c moves by its mean change whatever it is.
  double server_lr = 1.0;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    WeightingOptions::fields(self, visit);
    visit("server_lr", self.server_lr, Field("Server learning rate η_g.").above(0));
  }
};

// SCAFFOLD (Karimireddy, Kale, Mohri, Reddi, Stich, Suresh 2020, algorithm 1, option II): every
// local gradient is corrected by c − c_k; after K steps at learning rate η the client's variate
// becomes c_k⁺ = c_k − c + (x − y_k)/(Kη), and the client returns Δy = y_k − x and Δc = c_k⁺ − c_k.
// Server: x ← x + η_g·mean Δy; c ← c + (|S|/N)·mean Δc.
//
// We differ from the paper in weighting Δy by samples by default (`weighting = "uniform"` is the
// paper's mean); Δc is always averaged uniformly, as the analysis needs. The variate c_k lives with
// the client. Plain SGD clients only: with momentum or Adam, (x − y)/(Kη) is no longer a mean
// gradient. With sub-models, all clients must train the same units in every round.
class Scaffold : public FedAvg {
 public:
  using Options = ScaffoldOptions;
  explicit Scaffold(const Options& options) : FedAvg(options), server_lr_(options.server_lr) {}
  Traits traits() const override {
    return {.client_state = true, .increments = true, .plain_sums = true};
  }
  void start(const ServerSetup& setup) override;
  // Adds c as the payload "control": task and update are about twice as long as FedAvg's. Throws
  // Error for another client optimizer than SGD without momentum.
  void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                 Task& task) override;
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;
  void save(ByteWriter& out) const override { write_values(*control_, out); }
  // Throws Error, with c as it was, for a c of another size.
  void load(ByteReader& in) override;
  // "delta" and "control_delta".
  std::vector<std::string> update_payloads(const RoundInfo& round) const override;

 private:
  double server_lr_;
  uint64_t num_clients_ = 0;
  std::shared_ptr<const ParameterSet>
      control_;  // replaced, never changed: tasks of the round share it
};

}  // namespace espalier::strategy

#pragma once

#include "espalier/strategy/fedavg.h"

namespace espalier::strategy {

struct ScaffoldOptions : WeightingOptions {
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
// gradient.
class Scaffold : public FedAvg {
 public:
  using Options = ScaffoldOptions;
  explicit Scaffold(const Options& options) : FedAvg(options), server_lr_(options.server_lr) {}
  void start(const ServerSetup& setup) override;
  void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                 Task& task) override;
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;
  void save(ByteWriter& out) const override { write_values(*control_, out); }
  void load(ByteReader& in) override;
  Update run_client(ClientContext& context, const Task& task) const override;
  std::vector<std::string> update_payloads(const RoundInfo& round) const override;
  bool has_client_state() const override { return true; }

 private:
  double server_lr_;
  uint64_t num_clients_ = 0;
  std::shared_ptr<const ParameterSet>
      control_;  // replaced, never changed: tasks of the round share it
};

}  // namespace espalier::strategy

#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "espalier/params/exact_sum.h"
#include "espalier/params/parameter_set.h"
#include "espalier/strategy/sum_rules.h"
#include "espalier/submodel/submodel.h"
#include "espalier/wire/task.h"

namespace espalier::strategy {

// The sums of one round, in O(model) memory whatever the number of clients. Exact: the order in
// which updates arrive changes no bit. add() and admit() may be called by many threads; everything
// else when all updates are in.
//
// Memory: 8 bytes per value and payload, as long as the whole model also where clients train parts
// of it, the scalars of every client, and up to four updates of together 32 MiB (or one) per
// payload that are to be added at once.
class RoundSums {
 public:
  // At most `max_clients` updates; no weight above `max_weight`. `rules` make the means.
  RoundSums(uint64_t max_clients, double max_weight, SumRules rules = {weighted_mean()})
      : max_clients_(max_clients), max_weight_(max_weight), rules_(std::move(rules)) {}

  // Adds all payloads of an update and keeps its scalars. Either everything is added or, with an
  // Error, nothing: for a client that has answered before, a number of samples outside [0, 2^53], a
  // scalar that is not finite, a weight above `max_weight` or below 0, and values that an
  // ExactAccumulator refuses (not finite, beyond ±4096, not as many as expected).
  void add(uint64_t client, const wire::Update& update);
  // Parts of the sums that were made elsewhere, with equal bounds: count() for each update whose
  // values are in one, with names and weights for payloads and otherwise as add() takes it, and
  // once per part the words of its accumulators, added to ours. Throws Error as add() does.
  void count(uint64_t client, const wire::Update& update);
  ExactAccumulator& accumulator(const std::string& payload, const ParameterLayout& layout);
  // To be called for an update before it is added: rules may weigh it anew.
  void admit(wire::Update& update) const {
    for (const auto& rule : rules_) rule->admit(update);
  }
  bool reweighs() const {
    return std::ranges::any_of(rules_, [](const auto& rule) { return rule->reweighs(); });
  }
  uint64_t max_clients() const { return max_clients_; }
  double max_weight() const { return max_weight_; }

  // What has been sent, by name.
  std::vector<std::string> payloads() const;
  // Σ weight·x of a payload, valid as long as this; nullptr when no update carried it.
  const ExactAccumulator* find(const std::string& payload) const;
  // The mean of a payload by the rules; an Error when nobody sent it or all weights were 0.
  ParameterSet mean(const std::string& payload,
                    const std::shared_ptr<const ParameterLayout>& layout) const;

  // Clients that count in the sums.
  uint64_t num_updates() const { return by_client_.size(); }
  bool counts(uint64_t client) const { return by_client_.contains(client); }
  // The parts of the model that the clients trained; nothing when one trained all of it.
  std::optional<std::vector<std::shared_ptr<const submodel::Submodel>>> submodels() const;
  // Σ_k num_samples_k·s_k / Σ_k num_samples_k, and Σ_k s_k, added in the order of client numbers.
  // Clients without the scalar count in neither; 0 when nobody has it.
  double weighted_mean_of(const std::string& scalar) const;
  double sum(const std::string& scalar) const;

 private:
  static void check(uint64_t client, const wire::Update& update);
  void begin(uint64_t client);
  void keep(uint64_t client, const wire::Update& update);
  ExactAccumulator& made(const std::string& payload, const ParameterLayout& layout);
  // Updates of the whole model that were checked and wait for others, to be added with them: an
  // accumulator is twice as long as what is added to it.
  struct Waiting {
    ExactAccumulator* sum;
    std::vector<std::shared_ptr<const ParameterSet>> values;
    std::vector<ExactAccumulator::Contribution> contributions;
  };
  static void add(Waiting waiting);
  void add_waiting() const;
  struct Scalars {
    double num_samples;
    std::map<std::string, double> values;
    std::shared_ptr<const submodel::Submodel> submodel;
    std::map<std::string, double> weights;  // by payload
  };
  uint64_t max_clients_;
  double max_weight_;
  SumRules rules_;
  mutable std::mutex mutex_;  // of what stands below, while updates arrive
  std::map<std::string, std::unique_ptr<ExactAccumulator>> sums_;
  mutable std::map<std::string, Waiting> waiting_;  // by payload
  std::map<uint64_t, Scalars> by_client_;
  std::set<uint64_t> answering_;  // who has answered or is being added
};

}  // namespace espalier::strategy

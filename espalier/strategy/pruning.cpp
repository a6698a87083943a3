#include "espalier/strategy/pruning.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/train/weight_uses.h"

namespace espalier::strategy {
namespace {

constexpr uint64_t kAgreementSamples = 4096;

// Through a lossy codec a square may come out below zero.
ParameterSet mean_of_squares(const RoundSums& sums, const char* payload,
                             const std::shared_ptr<const ParameterLayout>& layout) {
  ParameterSet mean = sums.mean(payload, layout);
  for (float& value : mean.values()) value = std::max(value, 0.0f);
  return mean;
}

}  // namespace

Pruning::Pruning(const Options& options)
    : FedAvg(options), options_(options), row_(prune::find_criterion(options.criterion)) {
  const bool gradual = options_.end_round > 0,
             explores = row_.evidence != prune::EvidenceKind::kNone;
  const auto refuse = [&](const char* option, const char* why) {
    fail("config", "strategy.", option, " does not go with criterion \"", row_.name, "\": ", why);
  };
  if (gradual && options_.end_round < options_.start_round)
    fail("config", "strategy.end_round is ", options_.end_round, ", before start_round ",
         options_.start_round);
  if (gradual && explores) refuse("end_round", "it prunes with what explorers find, once");
  if (options_.refresh_rounds > 0 && !explores && !gradual)
    refuse("refresh_rounds", "the same weights would be pruned again; set end_round too");
  if (!row_.every_step) return;
  const char* why = "no mask outlives a step";
  if (gradual) refuse("end_round", why);
  if (options_.by_unit) refuse("by_unit", why);
  if (options_.unit_threshold > 0) refuse("unit_threshold", why);
  if (options_.min_keep > 0) refuse("min_keep", why);
}

void Pruning::start(const ServerSetup& setup) {
  FedAvg::start(setup);
  num_clients_ = setup.num_clients;
  key_ = setup.key.child(Purpose::kStrategy);
  if (options_.server_momentum > 0) velocity_ = ParameterSet(setup.layout);
  if ((options_.by_unit || options_.unit_threshold > 0) && setup.layout->groups().empty())
    fail("config",
         "the model states no units, so none can be pruned; set strategy.by_unit = false and "
         "unit_threshold = 0, or use another model");
  if (row_.evidence != prune::EvidenceKind::kImportance) return;
  for (const int64_t uses : train::weight_uses(setup.model, setup.data)) {
    // Of one step: forward and backward for every sample of a batch, and the optimizer once.
    const double macs = 3 * static_cast<double>(uses * setup.train.batch_size);
    value_seconds_.push_back(options_.seconds_per_value + options_.seconds_per_mac * macs);
  }
}

double Pruning::sparsity_at(uint32_t round) const {
  const auto begin = static_cast<uint32_t>(options_.start_round);
  const uint32_t end = std::max(begin, static_cast<uint32_t>(options_.end_round));
  const auto every = static_cast<uint32_t>(std::max<int64_t>(1, options_.refresh_rounds));
  if (round >= begin && round < end) round = begin + (round - begin) / every * every;
  return prune::gradual_sparsity(options_.sparsity, begin, end, round);
}

bool Pruning::explores(const RoundInfo& round) const {
  return row_.evidence != prune::EvidenceKind::kNone &&
         round.round == static_cast<uint32_t>(options_.start_round);
}

bool Pruning::refreshes(uint32_t round) const {
  const auto start = static_cast<uint32_t>(options_.start_round),
             every = static_cast<uint32_t>(options_.refresh_rounds);
  return row_.evidence != prune::EvidenceKind::kNone && every > 0 && round > start &&
         (round - start) % every == 0;
}

prune::PruneRule Pruning::rule(double sparsity) const {
  return {sparsity, options_.tensors == "weights", options_.by_unit, options_.min_keep};
}

prune::Evidence Pruning::evidence() const {
  prune::Evidence evidence;
  evidence.value_seconds = &value_seconds_;
  evidence.robust = options_.guidance == "robust";
  evidence.key = key_;
  return evidence;
}

void Pruning::begin_round(const RoundInfo& round, ParameterSet& global) {
  if (explores(round) && options_.agreement > 0)
    explored_ = std::make_unique<ExplorerStore>(scratch_, static_cast<size_t>(layout()->size()));
  if (row_.every_step || row_.evidence != prune::EvidenceKind::kNone) {
    // Clients that hold a part's mask need the whole model's for this round.
    refresh_mask_ = part_ != nullptr && refreshes(round.round)
                        ? std::make_shared<TravellingMask>(whole_mask_->mask, round.round)
                        : nullptr;
    return;
  }
  const double sparsity = sparsity_at(round.round);
  const double before = round.round > 1 ? sparsity_at(round.round - 1) : 0;
  if (sparsity == before) return;
  prune::Evidence found = evidence();
  found.weights = &global;
  adopt(prune::choose_mask(row_.score(found), rule(sparsity)), round.round);
  apply_mask(global);
}

uint64_t Pruning::explorers(const RoundInfo& round) const {
  if (!explores(round)) return 0;
  return static_cast<uint64_t>(std::ceil(options_.explorers * static_cast<double>(num_clients_)));
}

void Pruning::configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                        Task& task) {
  task.payloads.push_back({kModel, global, 1});
  if (round.kind == TaskKind::kExplore || !whole_mask_) return;
  if (refresh_mask_) {
    task.mask = refresh_mask_;
    return;
  }
  task.submodel = part_;
  task.mask = part_ != nullptr ? part_mask_ : whole_mask_;
}

std::vector<std::string> Pruning::update_payloads(const RoundInfo& round) const {
  const bool importance = row_.evidence == prune::EvidenceKind::kImportance;
  if (round.kind != TaskKind::kExplore) {
    if (importance && refreshes(round.round)) return {kDelta, kImportance};
    return {kDelta};
  }
  std::vector<std::string> names = {importance ? kImportance : kDeviation};
  if (options_.init_from_exploration) names.push_back(kExplored);
  return names;
}

void Pruning::accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                         RoundSums& sums) {
  const bool deviation = row_.evidence == prune::EvidenceKind::kDeviation;
  if (round.kind == TaskKind::kExplore && explored_ != nullptr) {
    for (const Payload& payload : update.payloads) {
      if (payload.name == kDeviation) explored_->put(client, payload.values->values());
    }
  }
  if (round.kind == TaskKind::kExplore || !deviation || !refreshes(round.round)) {
    sums.add(client, update);
    return;
  }
  // The squares of a change that arrived anyway need not travel.
  Update with_squares = update;
  auto squares = std::make_shared<ParameterSet>(*update.payloads[0].values);
  for (float& value : squares->values()) value *= value;
  with_squares.payloads.push_back({kDeviation, std::move(squares), 1});
  sums.add(client, with_squares);
}

void Pruning::finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) {
  if (round.kind == TaskKind::kExplore) {
    finish_exploration(round, sums, global);
    return;
  }
  const ParameterSet mean = sums.mean(kDelta, layout());
  const auto beta = static_cast<float>(options_.server_momentum);
  for_trainable(global.layout(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      float step = mean.values()[i];
      if (!velocity_.empty()) {
        float& velocity = velocity_.values()[i];
        velocity = beta * velocity - (1 - beta) * step;
        step = -velocity;
      }
      global.values()[i] += step;
    }
  });
  apply_untrained(mean, global);
  if (refreshes(round.round)) {
    prune::Evidence found = evidence();
    const bool deviation = row_.evidence == prune::EvidenceKind::kDeviation;
    const ParameterSet squares =
        mean_of_squares(sums, deviation ? kDeviation : kImportance, layout());
    (deviation ? found.deviation : found.importance) = &squares;
    adopt(prune::choose_mask(row_.score(found), rule(options_.sparsity)), round.round + 1);
  }
  apply_mask(global);
}

void Pruning::finish_exploration(const RoundInfo& round, const RoundSums& sums,
                                 ParameterSet& global) {
  const bool deviation = row_.evidence == prune::EvidenceKind::kDeviation;
  const ParameterSet squares =
      mean_of_squares(sums, deviation ? kDeviation : kImportance, layout());
  prune::Evidence found = evidence();
  (deviation ? found.deviation : found.importance) = &squares;
  exploration_epochs_ = sums.weighted_mean(kExplorationEpochs);
  if (options_.init_from_exploration) {
    const ParameterSet mean = sums.mean(kExplored, layout());
    for_trainable(global.layout(), [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) global.values()[i] += mean.values()[i];
    });
    apply_untrained(mean, global);
  }
  adopt(explored_ != nullptr ? agreed_mask()
                             : prune::choose_mask(row_.score(found), rule(options_.sparsity)),
        round.round);
  explored_ = nullptr;
  apply_mask(global);
}

// Two passes over the explorers' deviations: how they agree on a sample of the weights, then their
// weighted mean and votes.
prune::Mask Pruning::agreed_mask() {
  std::vector<size_t> prunable;
  for (const ParameterInfo& tensor : layout()->tensors()) {
    if (!is_trainable(tensor.role)) continue;
    for (int64_t i = 0; i < tensor.size; ++i)
      prunable.push_back(static_cast<size_t>(tensor.offset + i));
  }
  const std::vector<uint64_t> chosen = sample_without_replacement(
      key_.child(1), prunable.size(), std::min<uint64_t>(kAgreementSamples, prunable.size()));
  std::vector<std::vector<float>> samples;
  explored_->for_each([&](uint64_t, std::span<const float> deviation) {
    std::vector<float>& mine = samples.emplace_back();
    for (const uint64_t index : chosen) mine.push_back(deviation[prunable[index]]);
  });
  // Whole multiples of 2^-10, so that the exact sums know their total.
  std::vector<double> weights = prune::agreement_weights(samples);
  double total = 0;
  for (double& weight : weights) {
    weight = std::round(weight * 1024) / 1024;
    total += weight;
  }
  const auto size = static_cast<size_t>(layout()->size());
  ExactAccumulator sum(size, weights.size(), std::max(1.0, std::ranges::max(weights)));
  std::vector<float> votes(size, 0);
  size_t next = 0;
  explored_->for_each([&](uint64_t, std::span<const float> values) {
    const double weight = weights[next++];
    ParameterSet deviation(layout());
    std::ranges::copy(values, deviation.values().begin());
    for (float& value : deviation.values()) value = std::max(value, 0.0f);
    prune::Evidence own = evidence();
    own.deviation = &deviation;
    const prune::Mask mask = prune::choose_mask(row_.score(own), rule(options_.sparsity));
    for (size_t i = 0; i < size; ++i) votes[i] += mask.keeps(i) ? static_cast<float>(weight) : 0;
    sum.add(deviation.values(), weight);
  });
  ParameterSet mean(layout());
  sum.mean(sum.total_weight(), mean.values());
  prune::Evidence found = evidence();
  found.deviation = &mean;
  const prune::Mask together = prune::choose_mask(row_.score(found), rule(options_.sparsity));
  std::vector<uint64_t> words = together.words();
  const auto needed = static_cast<float>(options_.agreement * total);
  for (size_t i = 0; i < size; ++i) {
    if (votes[i] < needed) words[i / 64] &= ~(uint64_t{1} << (i % 64));
  }
  return {layout(), std::move(words)};
}

void Pruning::adopt(prune::Mask mask, uint32_t since) {
  part_ = nullptr;
  part_mask_ = nullptr;
  if (options_.unit_threshold > 0) {
    auto kept = prune::kept_units(mask, options_.unit_threshold);
    mask = prune::without_units(mask, kept);
    auto part = std::make_shared<submodel::Submodel>(layout(), std::move(kept));
    if (!part->whole()) {
      part_ = std::move(part);
      part_mask_ = std::make_shared<TravellingMask>(mask.extract(*part_), since);
    }
  }
  whole_mask_ = std::make_shared<TravellingMask>(std::move(mask), since);
}

void Pruning::apply_mask(ParameterSet& global) {
  if (!whole_mask_) return;
  whole_mask_->mask.apply(global.values());
  if (!velocity_.empty()) whole_mask_->mask.apply(velocity_.values());
}

std::map<std::string, double> Pruning::metrics() const {
  if (!whole_mask_) return {};
  double trained = 0, kept = 0;
  const auto& tensors = layout()->tensors();
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (!is_trainable(tensors[t].role)) continue;
    trained += static_cast<double>(tensors[t].size);
    kept += static_cast<double>(whole_mask_->mask.kept(t));
  }
  std::map<std::string, double> figures = {{"mask_kept", kept / trained}};
  if (part_ != nullptr)
    figures["part_parameters"] = static_cast<double>(part_->layout()->num_trainable());
  if (exploration_epochs_ > 0) figures[kExplorationEpochs] = exploration_epochs_;
  return figures;
}

void Pruning::save(ByteWriter& out) const {
  out.put(static_cast<uint8_t>(whole_mask_ != nullptr));
  out.put(exploration_epochs_);
  if (whole_mask_ != nullptr) {
    out.put(whole_mask_->round);
    out.put(static_cast<uint64_t>(whole_mask_->bytes.size()));
    out.bytes(whole_mask_->bytes);
  }
  if (!velocity_.empty()) write_values(velocity_, out);
}

void Pruning::load(ByteReader& in) {
  whole_mask_ = part_mask_ = nullptr;
  part_ = nullptr;
  const bool has_mask = in.get<uint8_t>() != 0;
  exploration_epochs_ = in.get<double>();
  if (has_mask) {
    const auto since = in.get<uint32_t>();
    adopt(prune::decode_mask(in.take(in.get<uint64_t>()), layout(), in.where()), since);
  }
  if (!velocity_.empty()) read_values(in, velocity_);
}

}  // namespace espalier::strategy

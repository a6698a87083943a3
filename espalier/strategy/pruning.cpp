#include "espalier/strategy/pruning.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/weight_uses.h"
#include "espalier/strategy/exploration_client.h"
#include "espalier/strategy/pruning_client.h"
#include "espalier/strategy/squared_gradients.h"
#include "espalier/wire/message.h"

namespace espalier::strategy {
namespace {

// Payloads.
constexpr const char* kDeviation = ExplorationClient::kDeviation;
constexpr const char* kExplored = ExplorationClient::kExplored;
constexpr const char* kImportance = PruningClient::kImportance;

constexpr uint64_t kAgreementSamples = 4096;

// Squares of small changes are far below the resolution of an exact sum (2^-35 for 20 clients of
// 600 samples), and what is rounded to zero is pruned. So each is summed in two parts, a multiple
// of 2^-20 and the rest, scaled up by 2^30; both parts are exact.
constexpr float kCoarse = 0x1p-20f, kFineScale = 0x1p30f;
std::string fine(const std::string& payload) { return payload + ".fine"; }

void split_squares(Update& update, const std::string& name) {
  for (size_t p = 0; p < update.payloads.size(); ++p) {
    if (update.payloads[p].name != name) continue;
    auto coarse = std::make_shared<ParameterSet>(*update.payloads[p].values);
    auto rest = std::make_shared<ParameterSet>(coarse->shared_layout());
    for (size_t i = 0; i < coarse->size(); ++i) {
      const float value = coarse->values()[i];
      const float rounded = std::abs(value) < 8 ? std::nearbyint(value / kCoarse) * kCoarse : value;
      rest->values()[i] = (value - rounded) * kFineScale;
      coarse->values()[i] = rounded;
    }
    update.payloads[p].values = std::move(coarse);
    update.payloads[p].largest.reset();
    update.payloads.push_back({fine(name), std::move(rest), update.payloads[p].weight});
    return;
  }
}

ParameterSet mean_of_squares(const RoundSums& sums, const std::string& payload,
                             const std::shared_ptr<const ParameterLayout>& layout) {
  ParameterSet mean = sums.mean(payload, layout);
  add_scaled(mean.values(), 1 / kFineScale, sums.mean(fine(payload), layout).values());
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
  if (options_.min_keep > 1 - options_.sparsity + 1e-9)
    fail("config", "strategy.min_keep = ", options_.min_keep,
         " leaves no room for sparsity = ", options_.sparsity, "; the two may add up to 1");
  if (gradual && explores) refuse("end_round", "it prunes with what explorers find, once");
  if (options_.refresh_rounds > 0 && !explores && !gradual)
    refuse("refresh_rounds", "the same weights would be pruned again; set end_round too");
  const Options usual;
  if (!explores) {
    const char* idle = "it explores nothing";
    if (options_.explorers != usual.explorers) refuse("explorers", idle);
    if (options_.exploration_epochs != usual.exploration_epochs) refuse("exploration_epochs", idle);
    if (options_.exploration_patience != usual.exploration_patience)
      refuse("exploration_patience", idle);
    if (options_.exploration_holdout != usual.exploration_holdout)
      refuse("exploration_holdout", idle);
  }
  if (row_.evidence != prune::EvidenceKind::kImportance) {
    const char* untimed = "it looks at no time";
    if (options_.seconds_per_mac != usual.seconds_per_mac) refuse("seconds_per_mac", untimed);
    if (options_.seconds_per_value != usual.seconds_per_value) refuse("seconds_per_value", untimed);
  }
  if (!row_.every_step) return;
  if (options_.start_round != usual.start_round)
    refuse("start_round", "every round is pruned alike");
  const char* why = "no mask outlives a step";
  if (gradual) refuse("end_round", why);
  if (options_.by_unit) refuse("by_unit", why);
  if (options_.unit_threshold > 0) refuse("unit_threshold", why);
  if (options_.min_keep > 0) refuse("min_keep", why);
}

// Every client that works under a mask remembers it, so that it travels once per change.
Traits Pruning::traits() const {
  return {.client_state = !row_.every_step, .masks = !row_.every_step};
}

void Pruning::start(const ServerSetup& setup) {
  FedAvg::start(setup);
  num_clients_ = setup.num_clients;
  scratch_ = setup.scratch;
  key_ = setup.key.child(Purpose::kStrategy);
  const bool apart =
      setup.uplink != nullptr && travels_exact(wire::Coding::kFaithful, *setup.uplink);
  exact_evidence_ = setup.uplink == nullptr || setup.uplink->lossless() || apart;
  sends_squares_ = apart && row_.evidence == prune::EvidenceKind::kDeviation;
  if (options_.server_momentum > 0) velocity_ = ParameterSet(setup.layout);
  if ((options_.by_unit || options_.unit_threshold > 0) && setup.layout->groups().empty()) {
    const auto notes = models::unit_notes(setup.model, setup.data);
    fail("config", "the model states no units, so none can be pruned (",
         notes.empty() ? "it has no hidden layers" : notes.front(),
         "); set strategy.by_unit = false and unit_threshold = 0, or use another model");
  }
  const std::string mixer = models::unit_mixer(setup.model);
  if (options_.unit_threshold > 0 && !mixer.empty()) {
    fail("config", "strategy.unit_threshold takes units out of the net, and ", mixer,
         " looks at all units of a layer: what trains would be another net than the one that is "
         "saved, with zeros in their place; set strategy.unit_threshold = 0 or leave that out");
  }
  if (row_.evidence != prune::EvidenceKind::kImportance) return;
  for (const int64_t uses : models::weight_uses(setup.model, setup.data)) {
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

// Not in the last round: what it prunes nobody would train any more.
bool Pruning::refreshes(const RoundInfo& info) const {
  const auto start = static_cast<uint32_t>(options_.start_round),
             every = static_cast<uint32_t>(options_.refresh_rounds);
  return row_.evidence != prune::EvidenceKind::kNone && every > 0 && info.round > start &&
         info.round < info.num_rounds && (info.round - start) % every == 0;
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
  if (row_.every_step || row_.evidence != prune::EvidenceKind::kNone) return;
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
  const auto rounds = static_cast<int64_t>(round.num_rounds);
  if (round.round == 1 && std::max(options_.start_round, options_.end_round) > rounds) {
    fail("config", "strategy.", options_.end_round > rounds ? "end_round" : "start_round",
         " is after the last of ", rounds, " rounds");
  }
  task.payloads.push_back({kModel, global, 1});
  if (round.kind == TaskKind::kExplore) {
    ExplorationOptions exploration;
    exploration.weighting = options_.weighting;
    exploration.criterion = row_.name;
    exploration.exploration_epochs = options_.exploration_epochs;
    exploration.exploration_patience = options_.exploration_patience;
    exploration.exploration_holdout = options_.exploration_holdout;
    exploration.init_from_exploration = options_.init_from_exploration;
    task.algorithm = ExplorationClient::kName;
    task.options = changed_options(exploration);
    return;
  }
  PruningClientOptions training;
  training.weighting = options_.weighting;
  training.criterion = row_.name;
  if (row_.every_step) {
    training.sparsity = options_.sparsity;
    training.tensors = options_.tensors;
  }
  training.sends_squares = sends_squares_ && refreshes(round);
  task.algorithm = PruningClient::kName;
  task.options = changed_options(training);
  if (!whole_mask_) return;
  if (refreshes(round)) task.scalars[PruningClient::kRefresh] = 1;
  task.submodel = part_;
  task.mask = part_ != nullptr ? part_mask_ : whole_mask_;
}

std::vector<std::string> Pruning::update_payloads(const RoundInfo& round) const {
  const bool importance = row_.evidence == prune::EvidenceKind::kImportance;
  if (round.kind != TaskKind::kExplore) {
    if (importance && refreshes(round)) return {kDelta, kImportance};
    if (sends_squares_ && refreshes(round)) return {kDelta, kDeviation};
    return {kDelta};
  }
  std::vector<std::string> names = {importance ? kImportance : kDeviation};
  if (options_.init_from_exploration) names.push_back(kExplored);
  return names;
}

void Pruning::check(const RoundInfo& round, const ParameterLayout& tensors, double num_samples,
                    const Update& update) const {
  FedAvg::check(round, tensors, num_samples, update);
  if (!exact_evidence_) return;
  for (const Payload& payload : update.payloads) {
    if (payload.name != kDeviation && payload.name != kImportance) continue;
    for (const float value : payload.values->values()) {
      if (value < 0) fail("round/update", "payload '", payload.name, "' has negative squares");
    }
  }
}

void Pruning::accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                         RoundSums& sums) {
  const bool explores = round.kind == TaskKind::kExplore;
  if (!explores && !refreshes(round)) {
    sums.add(client, update);
    return;
  }
  Update with_squares = update;
  const bool deviation = row_.evidence == prune::EvidenceKind::kDeviation;
  // The squares of a change that arrived anyway need not travel.
  if (deviation && !explores && !sends_squares_)
    with_squares.payloads.push_back({kDeviation, squares_of(*update.payloads[0].values), 1});
  split_squares(with_squares, deviation ? kDeviation : kImportance);
  sums.add(client, with_squares);
  // Only what the sums have taken is kept.
  if (!explores || explored_ == nullptr) return;
  for (const Payload& payload : update.payloads) {
    if (payload.name == kDeviation) explored_->put(client, payload.values->values());
  }
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
  if (refreshes(round)) {
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
  exploration_epochs_ = sums.weighted_mean_of(ExplorationClient::kEpochs);
  if (options_.init_from_exploration) {
    const ParameterSet mean = sums.mean(kExplored, layout());
    add_trained(1.0f, mean, global);
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
  const std::vector<double> weights = prune::agreement_weights(samples);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  const auto size = static_cast<size_t>(layout()->size());
  // In the order of client numbers, so the same sums whoever answered first.
  std::vector<double> sum(size, 0);
  std::vector<float> votes(size, 0);
  size_t next = 0;
  explored_->for_each([&](uint64_t, std::span<const float> values) {
    const double weight = weights[next++];
    ParameterSet deviation(layout());
    std::ranges::copy(values, deviation.values().begin());
    prune::Evidence own = evidence();
    own.deviation = &deviation;
    const prune::Mask mask = prune::choose_mask(row_.score(own), rule(options_.sparsity));
    for (size_t i = 0; i < size; ++i) {
      votes[i] += mask.keeps(i) ? static_cast<float>(weight) : 0;
      sum[i] += weight * static_cast<double>(values[i]);
    }
  });
  ParameterSet mean(layout());
  for (size_t i = 0; i < size; ++i) mean.values()[i] = static_cast<float>(sum[i] / total);
  prune::Evidence found = evidence();
  found.deviation = &mean;
  const prune::Mask together = prune::choose_mask(row_.score(found), rule(options_.sparsity));
  std::vector<uint64_t> words = together.words();
  const auto needed = static_cast<float>(options_.agreement * total * (1 - 1e-6));
  for (size_t i = 0; i < size; ++i) {
    if (votes[i] < needed) words[i / 64] &= ~(uint64_t{1} << (i % 64));
  }
  prune::Mask agreed(layout(), std::move(words));
  if (options_.min_keep == 0) return agreed;
  // What min_keep keeps of everything stays, agreed upon or not.
  return prune::Mask::either(agreed, prune::choose_mask(row_.score(found), rule(1)));
}

void Pruning::adopt(prune::Mask mask, uint32_t since) {
  uint64_t left = 0;
  notes_.clear();
  for (const size_t tensor : prune::prunable_tensors(*layout(), options_.tensors == "weights")) {
    left += mask.kept(tensor);
    const ParameterInfo& info = layout()->tensors()[tensor];
    if (mask.kept(tensor) == 0 && info.role == Role::kWeight)
      notes_.push_back(concat("pruning left no weight of ", info.name,
                              "; what stands before it no longer matters: set strategy.min_keep"));
  }
  if (left == 0) {
    fail("strategy/pruning", "criterion \"", row_.name,
         "\" scores all weights alike, so that all would be pruned; explore longer or at a larger "
         "train.lr, or set strategy.min_keep");
  }
  std::vector<std::vector<uint32_t>> kept;
  if (options_.unit_threshold > 0) {
    kept = prune::kept_units(mask, options_.unit_threshold);
    mask = prune::without_units(mask, kept);
  }
  install(std::move(mask), std::move(kept), since);
}

// `kept`: the units of every group that are left; empty: no unit is ever removed.
void Pruning::install(prune::Mask mask, std::vector<std::vector<uint32_t>> kept, uint32_t since) {
  part_ = nullptr;
  part_mask_ = nullptr;
  if (!kept.empty()) {
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

RoundReport Pruning::take_report() {
  RoundReport report{{}, std::exchange(notes_, {})};
  if (!whole_mask_) return report;
  double trained = 0, kept = 0;
  const auto& tensors = layout()->tensors();
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (!is_trainable(tensors[t].role)) continue;
    trained += static_cast<double>(tensors[t].size);
    kept += static_cast<double>(whole_mask_->mask.kept(t));
  }
  std::map<std::string, double>& figures = report.figures;
  figures["mask_kept"] = kept / trained;
  if (part_ != nullptr)
    figures["part_parameters"] = static_cast<double>(part_->layout()->num_trainable());
  if (exploration_epochs_ > 0) figures[ExplorationClient::kEpochs] = exploration_epochs_;
  return report;
}

}  // namespace espalier::strategy

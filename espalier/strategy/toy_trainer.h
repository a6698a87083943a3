#pragma once

// For tests: a model with two weights w, loss ½‖w − x‖² for a sample x ∈ R², trained by plain SGD
// over the samples in their given order, so that every number can be worked out by hand.

#include <memory>
#include <vector>

#include "espalier/strategy/strategy.h"
#include "espalier/strategy/test_client_half.h"

namespace espalier::strategy {

class ToyTrainer : public train::Trainer {
 public:
  ToyTrainer()
      : layout_(std::make_shared<ParameterLayout>(
            std::vector<ParameterInfo>{{"w", {2}, Role::kWeight},
                                       {"mean", {1}, Role::kStatistic},
                                       {"count", {1}, Role::kCounter}})),
        weights_(layout_) {}

  const std::shared_ptr<const ParameterLayout>& layout() const override { return layout_; }
  void initialize(Key, ParameterSet& out) override { out = ParameterSet(layout_); }
  uint64_t macs_per_sample() const override { return 2; }
  void load(const ParameterSet& weights) override { weights_ = weights; }
  void store(ParameterSet& weights) const override { weights = weights_; }

  train::FitResult fit(const data::Dataset& dataset, std::span<const uint32_t> samples,
                       const train::StepOptions& options, const train::FitHooks& hooks,
                       Key) override {
    train::FitResult result;
    const auto w = weights_.values();
    const auto batch = static_cast<size_t>(options.batch_size);
    for (int64_t epoch = 0; epoch < options.epochs; ++epoch) {
      for (size_t begin = 0; begin < samples.size(); begin += batch) {
        if (options.max_steps > 0 && result.steps == static_cast<uint64_t>(options.max_steps))
          return result;
        std::vector<float> gradient(4, 0);
        const auto part = samples.subspan(begin, std::min(batch, samples.size() - begin));
        for (uint32_t sample : part) {
          for (size_t j = 0; j < 2; ++j) {
            gradient[j] +=
                (w[j] - dataset.floats[2 * sample + j]) / static_cast<float>(part.size());
          }
        }
        if (hooks.before_step) hooks.before_step(w, gradient);
        for (size_t j = 0; j < 2; ++j) w[j] -= static_cast<float>(options.lr) * gradient[j];
        if (hooks.after_step) hooks.after_step(w);
        w[2] += 1;  // a statistic and a counter that move with every step
        w[3] += 1;
        ++result.steps;
        result.samples += part.size();
        result.macs += 3 * macs_per_sample() * part.size();
      }
    }
    return result;
  }

  train::NormStatistics statistics(const data::Dataset&, std::span<const uint32_t>,
                                   size_t) override {
    return {ParameterSet(std::make_shared<const ParameterLayout>(
        std::vector<ParameterInfo>{{"statistic", {1}, Role::kStatistic}}))};
  }
  // One class, whose logit is minus the loss.
  void predict(const data::Dataset& dataset, std::span<const uint32_t> samples,
               const data::Augmentation*, Key, std::span<float>, std::span<float> logits) override {
    const auto w = weights_.values();
    for (size_t i = 0; i < logits.size(); ++i) {
      const float* x = dataset.floats.data() + 2 * samples[i];
      logits[i] = -0.5f * ((w[0] - x[0]) * (w[0] - x[0]) + (w[1] - x[1]) * (w[1] - x[1]));
    }
  }
  train::EvalSums evaluate(const data::Dataset&, std::span<const uint32_t> samples) override {
    return {0, 0, samples.size()};
  }

 private:
  std::shared_ptr<const ParameterLayout> layout_;
  ParameterSet weights_;
};

// A strategy on toy clients: client k holds the samples `points[k]` (pairs).
class ToyFederation {
 public:
  ToyFederation(std::unique_ptr<Strategy> strategy, std::vector<std::vector<float>> points)
      : strategy_(std::move(strategy)),
        points_(std::move(points)),
        global_(trainer_.layout()),
        states_(points_.size()) {
    train_.lr = 0.5;
    train_.batch_size = 100;
    strategy_->start({trainer_.layout(), points_.size()});
    dataset_.kind = data::Kind::kFloat;
    dataset_.sample_shape = {2};
    dataset_.num_classes = 1;
    for (const auto& mine : points_) {
      samples_.emplace_back();
      for (size_t i = 0; i < mine.size() / 2; ++i) {
        samples_.back().push_back(static_cast<uint32_t>(dataset_.labels.size()));
        dataset_.labels.push_back(0);
      }
      dataset_.floats.insert(dataset_.floats.end(), mine.begin(), mine.end());
    }
  }

  train::StepOptions& train() { return train_; }
  ParameterSet& global() { return global_; }
  Strategy& strategy() { return *strategy_; }
  const std::vector<client::ClientState>& states() const { return states_; }

  // One round with the given clients, in the given order of arrival. Saves and restores the
  // strategy in the middle when asked.
  void run_round(const std::vector<uint64_t>& clients, bool checkpoint = false) {
    ++round_;
    const RoundInfo info{round_, 10, Key(1).child(round_), train_};
    Preparation* preparation = strategy_->capabilities().preparation;
    if (preparation != nullptr) preparation->begin_round(info, global_);
    if (const uint64_t explorers = preparation != nullptr ? preparation->explorers(info) : 0;
        explorers > 0) {
      std::vector<uint64_t> first;
      for (uint64_t client = 0; client < explorers; ++client) first.push_back(client);
      RoundInfo exploration = info;
      exploration.kind = TaskKind::kExplore;
      run_exchange(exploration, first);
    }
    run_exchange(info, clients);
    if (checkpoint) {
      Bytes bytes;
      ByteWriter writer(bytes);
      strategy_->save(writer);
      strategy_->start({trainer_.layout(), points_.size()});
      ByteReader reader(bytes, "test");
      strategy_->load(reader);
      reader.finish();
    }
  }

  // Into how many parts updates are added first, where the strategy says that they may; 0: none.
  size_t num_parts = 0;

  void run_exchange(const RoundInfo& info, const std::vector<uint64_t>& clients) {
    RoundSums sums(clients.size(), 1000);
    std::vector<std::unique_ptr<RoundSums>> parts;
    while (parts.size() < num_parts && strategy_->traits().plain_sums &&
           info.kind == TaskKind::kTrain)
      parts.push_back(std::make_unique<RoundSums>(clients.size(), 1000));
    const auto shared = std::make_shared<ParameterSet>(global_);
    for (uint64_t client : clients) {
      Task task;
      task.kind = info.kind;
      task.round = round_;
      task.client = client;
      task.train = train_;
      strategy_->configure(info, shared, task);
      client::ClientState& state = states_[client];
      client::ClientContext context{trainer_,
                                    dataset_,
                                    samples_[client],
                                    info.key.child(client),
                                    state.empty() ? nullptr : &state,
                                    {}};
      const Update update = run_client(context, task);
      strategy_->check(info, *trainer_.layout(), update.num_samples, update);
      state = std::move(context.next);
      if (parts.empty()) {
        strategy_->accumulate(info, client, update, sums);
        continue;
      }
      parts[client % parts.size()]->add(client, update);
      Update head = update;
      for (Payload& payload : head.payloads) payload.values = nullptr;
      sums.count(client, head);
    }
    for (const auto& part : parts) {
      for (const std::string& payload : part->payloads()) {
        const ExactAccumulator& sum = *part->find(payload);
        std::vector<int64_t> words(sum.num_words());
        sum.words(0, words);
        sums.accumulator(payload, *trainer_.layout()).add_words(0, words);
      }
    }
    strategy_->finish(info, sums, global_);
  }

  float w(size_t i) const { return global_.values()[i]; }

 private:
  ToyTrainer trainer_;
  std::unique_ptr<Strategy> strategy_;
  std::vector<std::vector<float>> points_;
  data::Dataset dataset_;
  std::vector<std::vector<uint32_t>> samples_;
  ParameterSet global_;
  std::vector<client::ClientState> states_;
  train::StepOptions train_;
  uint32_t round_ = 0;
};

}  // namespace espalier::strategy

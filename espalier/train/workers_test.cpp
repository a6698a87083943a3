#include "espalier/train/workers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>

#include "espalier/base/error.h"
#include "espalier/train/evaluation.h"

namespace espalier::train {
namespace {

// One weight, whose value is the loss of every sample; counts what is done with it.
class Counting final : public Trainer {
 public:
  explicit Counting(std::atomic<int>& loads)
      : layout_(std::make_shared<const ParameterLayout>(std::vector<ParameterInfo>{{"w", {1}}})),
        loads_(loads) {}
  const std::shared_ptr<const ParameterLayout>& layout() const override { return layout_; }
  void initialize(Key, ParameterSet& out) override { out = ParameterSet(layout_); }
  uint64_t macs_per_sample() const override { return 1; }
  void load(const ParameterSet& weights) override {
    weight_ = weights.values()[0];
    ++loads_;
  }
  void store(ParameterSet& weights) const override {
    weights = ParameterSet(layout_);
    weights.values()[0] = weight_;
  }
  FitResult fit(const data::Dataset&, std::span<const uint32_t>, const StepOptions&,
                const FitHooks&, Key) override {
    return {};
  }
  NormStatistics statistics(const data::Dataset&, std::span<const uint32_t>, size_t) override {
    return {};
  }
  void predict(const data::Dataset&, std::span<const uint32_t>, const data::Augmentation*, Key,
               std::span<float>, std::span<float>) override {}
  EvalSums evaluate(const data::Dataset&, std::span<const uint32_t> samples) override {
    if (single) sizes.insert(samples.size());
    return {static_cast<double>(weight_) * static_cast<double>(samples.size()),
            samples.front() == 0 ? 1u : 0u, samples.size()};
  }
  static inline bool single = true;
  static inline std::multiset<size_t> sizes;  // of the batches; for one worker

 private:
  std::shared_ptr<const ParameterLayout> layout_;
  std::atomic<int>& loads_;
  float weight_ = 0;
};

data::Dataset samples(size_t count) {
  data::Dataset set;
  set.labels.resize(count);
  return set;
}

TEST(Workers, ReplicasAreMadeOnceBySizeAndReused) {
  std::atomic<int> loads = 0, made = 0, configured = 0;
  Workers workers(
      1,
      [&](std::span<const int64_t>) {
        ++made;
        return std::make_unique<Counting>(loads);
      },
      [&] { ++configured; });
  const std::vector<int64_t> half = {2};
  workers.run(6, [&](size_t index, size_t worker) {
    workers.trainer(worker, index % 2 == 0 ? std::span<const int64_t>{} : half);
  });
  EXPECT_EQ(made, 2);
  EXPECT_EQ(configured, 1);
  // More sizes than are kept: the one that was used longest ago goes.
  workers.run(Workers::kMaxReplicas, [&](size_t index, size_t worker) {
    const std::vector<int64_t> units = {static_cast<int64_t>(index) + 10};
    workers.trainer(worker, units);
  });
  EXPECT_EQ(made, 2 + static_cast<int>(Workers::kMaxReplicas));
  workers.run(1, [&](size_t, size_t worker) { workers.trainer(worker, half); });
  EXPECT_EQ(made, 3 + static_cast<int>(Workers::kMaxReplicas));
  workers.release();
  workers.run(1, [&](size_t, size_t worker) { workers.trainer(worker, half); });
  EXPECT_EQ(made, 4 + static_cast<int>(Workers::kMaxReplicas));
}

TEST(Workers, WeightsAreLoadedOncePerVersionUnlessTheReplicaWasUsed) {
  std::atomic<int> loads = 0;
  Workers workers(
      1, [&](std::span<const int64_t>) { return std::make_unique<Counting>(loads); }, [] {});
  ParameterSet weights(
      std::make_shared<const ParameterLayout>(std::vector<ParameterInfo>{{"w", {1}}}));
  const uint64_t version = workers.new_version();
  const auto load = [&] {
    workers.run(3, [&](size_t, size_t worker) { workers.loaded(worker, {}, weights, version); });
  };
  load();
  EXPECT_EQ(loads, 1);
  workers.run(1, [&](size_t, size_t worker) { workers.trainer(worker, {}); });
  load();
  EXPECT_EQ(loads, 2);
}

TEST(Evaluator, BatchesCoverEverySampleOnceWhateverTheWorkers) {
  const data::Dataset test = samples(23);
  for (const size_t threads : {1u, 3u}) {
    std::atomic<int> loads = 0;
    Counting::sizes.clear();
    Counting::single = threads == 1;
    Workers workers(
        threads, [&](std::span<const int64_t>) { return std::make_unique<Counting>(loads); },
        [] {});
    const auto layout =
        std::make_shared<const ParameterLayout>(std::vector<ParameterInfo>{{"w", {1}}});
    WorkersEvaluator evaluator(workers, test, layout, 10);
    ParameterSet model(layout);
    model.values()[0] = 2;
    const EvalSums sums = evaluator.evaluate(model);
    EXPECT_EQ(sums.count, 23u);
    EXPECT_EQ(sums.correct, 1u);
    EXPECT_EQ(sums.loss, 46);
    if (threads == 1) {
      EXPECT_EQ(Counting::sizes, (std::multiset<size_t>{3, 10, 10}));
    }
  }
}

TEST(Evaluation, SamplesAreTakenInTheirOrderBatchByBatch) {
  std::atomic<int> loads = 0;
  Counting trainer(loads);
  ParameterSet model;
  trainer.initialize(Key(1), model);
  model.values()[0] = 0.5f;
  trainer.load(model);
  const data::Dataset set = samples(5);
  EXPECT_EQ(all_samples(3), (std::vector<uint32_t>{0, 1, 2}));
  const EvalSums sums = trainer.evaluate_all(set, std::vector<uint32_t>{4, 0, 2}, 2);
  EXPECT_EQ(sums.count, 3u);
  EXPECT_EQ(sums.loss, 1.5);
  EXPECT_EQ(sums.correct, 0u);  // 0 never comes first
}

}  // namespace
}  // namespace espalier::train

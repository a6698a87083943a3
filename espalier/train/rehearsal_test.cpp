#include "espalier/train/rehearsal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "espalier/base/test_error.h"

namespace espalier::train {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// Trains on batches of at least `smallest` samples; notes the sizes that it is given.
class Picky final : public Trainer {
 public:
  size_t smallest = 1, smallest_test = 1;
  bool opaque_ = true, spoils = false;
  std::vector<size_t> trained, evaluated;

  const std::shared_ptr<const ParameterLayout>& layout() const override { return layout_; }
  void initialize(Key, ParameterSet& out) override { out = ParameterSet(layout_); }
  uint64_t macs_per_sample() const override { return 1; }
  bool opaque() const override { return opaque_; }
  void load(const ParameterSet&) override { weight_ = 0; }
  void store(ParameterSet& weights) const override {
    weights = ParameterSet(layout_);
    weights.values()[0] = weight_;
  }
  FitResult fit(const data::Dataset&, std::span<const uint32_t> samples, const StepOptions& options,
                const FitHooks&, Key) override {
    EXPECT_EQ(static_cast<size_t>(options.batch_size), samples.size());
    trained.push_back(samples.size());
    if (samples.size() < smallest && spoils) weight_ = NAN;
    if (samples.size() < smallest && !spoils) fail("train/model", "a batch of few: too few here");
    return {};
  }
  NormStatistics statistics(const data::Dataset&, std::span<const uint32_t>, size_t) override {
    return {};
  }
  void predict(const data::Dataset&, std::span<const uint32_t>, const data::Augmentation*, Key,
               std::span<float>, std::span<float>) override {}
  EvalSums evaluate(const data::Dataset&, std::span<const uint32_t> samples) override {
    evaluated.push_back(samples.size());
    if (samples.size() < smallest_test) fail("train/model", "no");
    return {};
  }

 private:
  std::shared_ptr<const ParameterLayout> layout_ =
      std::make_shared<const ParameterLayout>(std::vector<ParameterInfo>{{"w", {1}}});
  float weight_ = 0;
};

class Owners final : public data::Partition {
 public:
  explicit Owners(std::vector<uint64_t> sizes) : sizes_(std::move(sizes)) {}
  uint64_t num_clients() const override { return sizes_.size(); }
  uint64_t num_samples(uint64_t client) const override { return sizes_[client]; }
  void samples(uint64_t client, std::vector<uint32_t>& out) const override {
    out.assign(sizes_[client], 0);
  }
  uint64_t max_samples() const override { return 100; }

 private:
  std::vector<uint64_t> sizes_;
};

data::DataSource source(size_t tests) {
  const auto set = [](size_t count) {
    auto out = std::make_shared<data::Dataset>();
    out->labels.resize(count);
    return out;
  };
  return {set(1), set(tests)};
}

StepOptions batches_of(int64_t size, bool drop_last = false) {
  StepOptions options;
  options.batch_size = size;
  options.drop_last = drop_last;
  return options;
}

std::string rehearsed(Picky& model, const Owners& owners, const StepOptions& options,
                      size_t tests = 25, size_t eval_batch = 10) {
  ParameterSet weights;
  model.initialize(Key(0), weights);
  return error_of([&] { rehearse(model, weights, {source(tests), owners, options, eval_batch}); });
}

TEST(Rehearsal, TriesOneBatchOfEachKindThatOccurs) {
  Picky model;
  EXPECT_EQ(rehearsed(model, Owners({33, 40, 35, 33}), batches_of(16)), "");
  EXPECT_THAT(model.trained, ElementsAre(16, 1));
  EXPECT_THAT(model.evaluated, ElementsAre(10, 5));
}

TEST(Rehearsal, WhatIsNotOpaqueIsTakenAtItsWord) {
  Picky model;
  model.opaque_ = false;
  EXPECT_EQ(rehearsed(model, Owners({33}), batches_of(16)), "");
  EXPECT_THAT(model.trained, IsEmpty());
}

TEST(Rehearsal, LastBatchesThatFailAreNamedWithTheirClients) {
  Picky model;
  model.smallest = 4;
  const std::string message = rehearsed(model, Owners({33, 40, 35, 33, 36}), batches_of(16));
  EXPECT_THAT(message, AllOf(HasSubstr("on a last batch of 1, 3 samples"),
                             HasSubstr("clients 0, 3 and 2 have (33 to 35 samples)"),
                             HasSubstr("too few here; set train.drop_last = true")));
  EXPECT_THAT(model.trained, ElementsAre(16, 1, 3, 4));
}

TEST(Rehearsal, DropLastHasNone) {
  Picky model;
  model.smallest = 4;
  EXPECT_EQ(rehearsed(model, Owners({33, 40}), batches_of(16, true)), "");
  EXPECT_THAT(model.trained, ElementsAre(16));
}

TEST(Rehearsal, AClientWhoseOnlyBatchIsTooSmallNeedsMoreThanDropLast) {
  Picky model;
  model.smallest = 4;
  EXPECT_THAT(rehearsed(model, Owners({2, 40}), batches_of(16)),
              AllOf(HasSubstr("client 0 has (2 samples)"), HasSubstr("at least a whole batch")));
}

TEST(Rehearsal, AStepThatSpoilsTheModelIsAFailure) {
  Picky model;
  model.smallest = 2;
  model.spoils = true;
  EXPECT_THAT(rehearsed(model, Owners({33}), batches_of(16)), HasSubstr("'w' is no longer finite"));
}

TEST(Rehearsal, TheLastTestBatchToo) {
  Picky model;
  model.smallest_test = 6;
  EXPECT_THAT(rehearsed(model, Owners({32}), batches_of(16)),
              AllOf(HasSubstr("5 test samples"), HasSubstr("set another eval_batch")));
}

TEST(CheckBatches, DropLastMustLeaveEveryClientABatch) {
  const Owners owners({33, 9, 40, 12});
  EXPECT_EQ(error_of([&] { check_batches(owners, batches_of(16)); }), "");
  EXPECT_EQ(error_of([&] { check_batches(owners, batches_of(9, true)); }), "");
  EXPECT_THAT(error_of([&] { check_batches(owners, batches_of(16, true)); }),
              AllOf(HasSubstr("leaves clients 1 and 3 without any batch of 16 (9 to 12 samples)"),
                    HasSubstr("lower train.batch_size to 9")));
}

}  // namespace
}  // namespace espalier::train

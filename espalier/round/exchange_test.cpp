#include "espalier/round/exchange.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"

namespace espalier::round {
namespace {

std::shared_ptr<const ParameterLayout> layout() {
  static const auto shared =
      std::make_shared<const ParameterLayout>(std::vector<ParameterInfo>{{"w", {2}}});
  return shared;
}

// Clients hold as many samples as their number says.
class Population final : public Backend {
 public:
  uint64_t num_clients() const override { return 100; }
  uint64_t num_samples(uint64_t client) const override { return client; }
  void run(std::span<const uint64_t>, RoundTraffic&) override {}
};

// Sends two weights, and counts the samples of those that answer.
class Counting final : public Errand {
 public:
  wire::TaskKind kind() const override { return wire::TaskKind::kTrain; }
  Outgoing prepare(uint64_t client) override {
    Outgoing out;
    out.task.algorithm = "fedavg";
    out.task.scalars["client"] = static_cast<double>(client);
    out.task.payloads.push_back({wire::kModel, model_, 1});
    return out;
  }
  wire::WireLimits limits(uint64_t, const Sent&) const override { return {layout(), 10}; }
  void accept(uint64_t client, const Sent&, wire::Update& update) override {
    if (refuses == client) fail("test", "not this one");
    if (breaks == client) throw StorageError("[test] disk full");
    if (meanwhile) meanwhile();
    samples += update.num_samples;
  }
  double samples = 0;
  std::function<void()> meanwhile;
  uint64_t refuses = 0, breaks = 0;

 private:
  std::shared_ptr<const ParameterSet> model_ = std::make_shared<ParameterSet>(layout());
};

struct Fixture : testing::Test {
  Exchange make(const std::vector<uint64_t>& clients) {
    return Exchange({.round = 3,
                     .number = 1,
                     .key = Key(1),
                     .downlink = *codec,
                     .uplink = *codec,
                     .backend = population,
                     .devices = devices,
                     .layout = layout(),
                     .on_client = &on_client},
                    clients, errand);
  }
  // Of client `num_samples`, which holds as many.
  wire::EncodedMessage answer(double num_samples, double macs = 7) const {
    return answer_to({3, 1, static_cast<uint64_t>(num_samples)}, num_samples, macs);
  }
  wire::EncodedMessage answer_to(const wire::TaskId& id, double num_samples,
                                 double macs = 7) const {
    wire::Update update;
    update.answers = id;
    update.num_samples = num_samples;
    update.scalars[wire::kMacs] = macs;
    update.payloads.push_back({wire::kDelta, std::make_shared<ParameterSet>(layout()), 1});
    return encode_update(update, *codec, Key(2), {layout(), 10});
  }
  std::unique_ptr<codec::Codec> codec = codec::make_codec(Json::array(), "test");
  Population population;
  DeviceTable devices{{}, 100, Key(1)};
  std::function<void(uint64_t, uint64_t)> on_client;
  Counting errand;
};
using ExchangeTest = Fixture;

TEST_F(ExchangeTest, ATaskAskedTwiceIsTheSameBytesAndCountsOnce) {
  Exchange exchange = make({4, 9});
  const wire::EncodedMessage first = exchange.task(4);
  const uint64_t bytes = exchange.bytes_down();
  EXPECT_EQ(bytes, first.size_bytes());
  EXPECT_EQ(write_stream(exchange.task(4)), write_stream(first));
  EXPECT_EQ(exchange.bytes_down(), bytes);
  exchange.task(9);
  EXPECT_GT(exchange.bytes_down(), bytes);
  EXPECT_THROW(exchange.task(5), Error);
}

// A codec for differences is no codec for anything else, and statistics are of the model as it is.
TEST_F(ExchangeTest, WhatIsNoDifferenceIsExactBesideDifferences) {
  class Sending final : public Errand {
   public:
    explicit Sending(wire::TaskKind kind) : kind_(kind) {
      Stream stream{Key(3)};
      for (float& value : model->values()) value = static_cast<float>(stream.normal());
    }
    wire::TaskKind kind() const override { return kind_; }
    Outgoing prepare(uint64_t) override {
      Outgoing out;
      out.task.payloads.push_back({wire::kModel, model, 1});
      return out;
    }
    wire::WireLimits limits(uint64_t, const Sent&) const override { return {}; }
    void accept(uint64_t, const Sent&, wire::Update&) override {}
    std::shared_ptr<ParameterSet> model =
        std::make_shared<ParameterSet>(std::make_shared<const ParameterLayout>(
            std::vector<ParameterInfo>{{"w", {40, 30}, Role::kWeight}}));

   private:
    wire::TaskKind kind_;
  };
  const auto lossy = codec::make_codec(Json::parse(R"([{"stage":"topk","keep":0.05}])"), "test");
  for (const wire::TaskKind kind :
       {wire::TaskKind::kTrain, wire::TaskKind::kEvaluate, wire::TaskKind::kCalibrate}) {
    for (const bool differences : {false, true}) {
      Sending sending(kind);
      Exchange exchange({.round = 3,
                         .key = Key(1),
                         .downlink = *lossy,
                         .uplink = *codec,
                         .backend = population,
                         .devices = devices,
                         .layout = sending.model->shared_layout(),
                         .exact_tasks = differences},
                        std::vector<uint64_t>{4}, sending);
      const wire::EncodedMessage message = exchange.task(4);
      Key key(0);
      const wire::Task read =
          decode_task(message, *lossy, {sending.model->shared_layout(), 0}, nullptr, key);
      const bool exact = differences || kind == wire::TaskKind::kCalibrate;
      EXPECT_EQ(std::ranges::equal(read.payloads[0].values->values(), sending.model->values()),
                exact);
      EXPECT_EQ(exchange.bytes_down() > 4 * 1200, exact);
    }
  }
}

TEST_F(ExchangeTest, OneAnswerPerClientCounts) {
  Exchange exchange = make({4, 9});
  exchange.task(4);
  EXPECT_EQ(exchange.delivered(4, answer(4)), Receipt::kCounted);
  EXPECT_EQ(exchange.delivered(4, answer(4)), Receipt::kRefused);
  exchange.failed(4, "too late to fail");
  EXPECT_EQ(errand.samples, 4);
  EXPECT_EQ(exchange.refused(), 2u);
  EXPECT_EQ(exchange.bytes_up(), answer(4).size_bytes());
  EXPECT_EQ(exchange.answered(), (std::vector<uint64_t>{4}));
  EXPECT_TRUE(exchange.failures().empty());
  EXPECT_EQ(exchange.macs(), 7);
}

TEST_F(ExchangeTest, UnsolicitedAnswersAreRefused) {
  Exchange exchange = make({4, 9});
  EXPECT_EQ(exchange.delivered(4, answer(4)), Receipt::kRefused);  // has not asked for its task
  EXPECT_EQ(exchange.delivered(5, answer(5)), Receipt::kRefused);  // has none
  exchange.failed(5, "who?");
  EXPECT_EQ(exchange.refused(), 3u);
  EXPECT_EQ(exchange.bytes_up(), 0u);
  // A client that was early may still answer in its turn.
  exchange.task(4);
  EXPECT_EQ(exchange.delivered(4, answer(4)), Receipt::kCounted);
}

TEST_F(ExchangeTest, AnswersToOtherTasksAreLate) {
  Exchange exchange = make({4, 9});
  exchange.task(4);
  for (const wire::TaskId id : {wire::TaskId{2, 1, 4}, {3, 0, 4}, {3, 1, 9}})
    EXPECT_EQ(exchange.delivered(4, answer_to(id, 4)), Receipt::kRefused);
  EXPECT_EQ(exchange.refused(), 3u);
  EXPECT_EQ(exchange.delivered(4, answer(4)), Receipt::kCounted);
}

// While an answer is being added, another one of the same client is too many.
TEST_F(ExchangeTest, ASecondAnswerDuringTheFirstIsRefused) {
  Exchange exchange = make({4});
  exchange.task(4);
  Receipt second = Receipt::kCounted;
  errand.meanwhile = [&] {
    second = exchange.delivered(4, answer(4));
    exchange.failed(4, "lost meanwhile");
  };
  EXPECT_EQ(exchange.delivered(4, answer(4)), Receipt::kCounted);
  EXPECT_EQ(second, Receipt::kRefused);
  EXPECT_EQ(exchange.refused(), 2u);
  EXPECT_EQ(errand.samples, 4);
  EXPECT_TRUE(exchange.failures().empty());
}

TEST_F(ExchangeTest, AFailedClientIsAwaitedNoMore) {
  Exchange exchange = make({4, 9});
  exchange.task(4);
  exchange.failed(4, "lost");
  EXPECT_EQ(exchange.delivered(4, answer(4)), Receipt::kRefused);
  EXPECT_EQ(exchange.failures().at(4), "lost");
  EXPECT_EQ(errand.samples, 0);
}

TEST_F(ExchangeTest, FaultyAnswersEndTheirClient) {
  errand.refuses = 11;
  Exchange exchange = make({4, 9, 11, 12});
  for (const uint64_t client : {4u, 9u, 11u, 12u}) exchange.task(client);
  EXPECT_EQ(exchange.delivered(4, answer_to({3, 1, 4}, 5)), Receipt::kFaulty);  // other samples
  EXPECT_EQ(exchange.delivered(9, answer(9, -1)), Receipt::kFaulty);
  EXPECT_EQ(exchange.delivered(11, answer(11)), Receipt::kFaulty);
  EXPECT_EQ(exchange.delivered(12, {}), Receipt::kFaulty);
  EXPECT_EQ(exchange.failures().size(), 4u);
  EXPECT_TRUE(exchange.answered().empty());
  EXPECT_EQ(exchange.delivered(9, answer(9)), Receipt::kRefused);
}

TEST_F(ExchangeTest, OurOwnStorageIsNobodysFailure) {
  errand.breaks = 4;
  Exchange exchange = make({4});
  exchange.task(4);
  EXPECT_THROW(exchange.delivered(4, answer(4)), StorageError);
}

TEST_F(ExchangeTest, WhoeverIsStillAwaitedAtTheEndHasFailed) {
  std::vector<std::pair<uint64_t, uint64_t>> seen;
  on_client = [&](uint64_t done, uint64_t total) { seen.push_back({done, total}); };
  Exchange exchange = make({4, 9});
  exchange.task(4);
  exchange.delivered(4, answer(4));
  exchange.run(population);
  EXPECT_EQ(exchange.failures().at(9), "gave no answer");
  EXPECT_EQ(seen, (std::vector<std::pair<uint64_t, uint64_t>>{{1, 2}, {2, 2}}));
}

}  // namespace
}  // namespace espalier::round

#include "espalier/round/partial_sums.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/round/exchange.h"

namespace espalier::round {
namespace {

std::shared_ptr<const ParameterLayout> layout() {
  static const auto shared = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{"w", {3}}, {"mean", {2}, Role::kStatistic}});
  return shared;
}

class Population final : public Backend {
 public:
  uint64_t num_clients() const override { return 10; }
  uint64_t num_samples(uint64_t client) const override { return client; }
  void run(std::span<const uint64_t>, RoundTraffic&) override {}
};

// Sums changes of the model.
class Summed final : public Errand {
 public:
  wire::TaskKind kind() const override { return wire::TaskKind::kTrain; }
  Outgoing prepare(uint64_t client) override {
    Outgoing out;
    out.task.payloads.push_back({wire::kModel, std::make_shared<ParameterSet>(layout()), 1});
    if (client == 9)
      out.task.mask = std::make_shared<wire::TravellingMask>(prune::Mask::all(layout()), 1);
    return out;
  }
  wire::WireLimits limits(uint64_t, const Sent&) const override { return {layout(), 0, 1}; }
  void accept(uint64_t client, const Sent&, wire::Update& update) override {
    sums.add(client, update);
  }
  std::optional<Summing> summing() const override { return Summing{10, 10, {wire::kDelta}}; }
  void count(uint64_t client, const wire::Update& update) override { sums.count(client, update); }
  ExactAccumulator& sum(const std::string& payload) override {
    return sums.accumulator(payload, *layout());
  }
  strategy::RoundSums sums{10, 10};
};

struct PartialSumsTest : testing::Test {
  Exchange make(Summed& errand) {
    return Exchange({.round = 3,
                     .number = 1,
                     .key = Key(1),
                     .downlink = *codec,
                     .uplink = *codec,
                     .backend = population,
                     .devices = devices,
                     .layout = layout()},
                    std::vector<uint64_t>{1, 2, 3, 4, 9}, errand);
  }
  wire::EncodedMessage answer(uint64_t client, float value = 1, double macs = 7) const {
    ParameterSet values(layout());
    for (size_t i = 0; i < 5; ++i)
      values.values()[i] = value / static_cast<float>(3 * client + i + 1);
    wire::Update update;
    update.answers = {3, 1, client};
    update.num_samples = static_cast<double>(client);
    update.scalars[wire::kMacs] = macs;
    update.payloads.push_back({wire::kDelta, std::make_shared<ParameterSet>(std::move(values)),
                               static_cast<double>(client)});
    return encode_update(update, *codec, Key(client), {layout(), 10});
  }
  std::unique_ptr<codec::Codec> codec =
      codec::make_codec(Json::parse(R"([{"stage": "quantize", "bits": 8}])"), "test");
  Population population;
  DeviceTable devices{{}, 10, Key(1)};
};

TEST_F(PartialSumsTest, GiveWhatDeliveredUpdatesGive) {
  Summed one, other;
  Exchange alone = make(one), shared = make(other);
  PartialSums left(*shared.summing()), right(*shared.summing());
  for (const uint64_t client : {1, 2, 3, 4}) {
    alone.task(client);
    shared.task(client);
    ASSERT_EQ(alone.delivered(client, answer(client)), Receipt::kCounted);
    EXPECT_TRUE(shared.summable(client));
    if (client == 3) {  // some as ever
      ASSERT_EQ(shared.delivered(client, answer(client)), Receipt::kCounted);
      continue;
    }
    const wire::EncodedMessage message = answer(client);
    const wire::Update head =
        (client == 1 ? left : right)
            .add(client, static_cast<double>(client), layout(), message, *codec);
    ASSERT_EQ(shared.summed(client, head, message.size_bytes()), Receipt::kCounted);
    EXPECT_EQ(shared.summed(client, head, message.size_bytes()), Receipt::kRefused) << "twice";
  }
  for (PartialSums* part : {&left, &right}) {
    const ExactAccumulator& sum = part->sum(wire::kDelta, *layout());
    std::vector<int64_t> words(sum.num_words());
    sum.words(0, words);
    shared.sum(wire::kDelta).add_words(0, words);
  }
  EXPECT_EQ(alone.bytes_up(), shared.bytes_up());
  EXPECT_EQ(alone.answered(), shared.answered());
  EXPECT_EQ(alone.macs(), shared.macs());
  const ParameterSet mean = one.sums.mean(wire::kDelta, layout()),
                     parts = other.sums.mean(wire::kDelta, layout());
  EXPECT_TRUE(std::ranges::equal(mean.values(), parts.values()));
  EXPECT_GT(mean.values()[0], 0);
}

TEST_F(PartialSumsTest, TakeNothingOfAFaultyUpdate) {
  Summed errand;
  Exchange exchange = make(errand);
  PartialSums part(*exchange.summing());
  const auto refused = [&](const wire::EncodedMessage& message, double held) {
    EXPECT_THROW(part.add(2, held, layout(), message, *codec), Error);
  };
  refused(answer(2, 1e9f), 2);   // too large
  refused(answer(2, 1, -1), 2);  // negative products
  refused(answer(2), 3);         // other samples than stated
  wire::EncodedMessage broken = answer(2);
  broken.head.resize(broken.head.size() - 1);
  refused(broken, 2);
  EXPECT_EQ(part.sum(wire::kDelta, *layout()).contributions(), 0u);
}

TEST_F(PartialSumsTest, AreForWholeModelsWithoutMasks) {
  Summed errand;
  Exchange exchange = make(errand);
  EXPECT_FALSE(exchange.summable(1)) << "nobody has fetched the task";
  exchange.task(9);
  EXPECT_FALSE(exchange.summable(9)) << "the task carries a mask";
}

}  // namespace
}  // namespace espalier::round

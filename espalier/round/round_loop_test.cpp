// The round loop against clients that misbehave, on the two-weight toy model.
#include "espalier/round/round_loop.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>

#include "espalier/base/error.h"
#include "espalier/client/session.h"
#include "espalier/strategy/client_algorithms.h"
#include "espalier/strategy/fedavg.h"
#include "espalier/strategy/fednova.h"
#include "espalier/strategy/toy_trainer.h"

namespace espalier::round {
namespace {

using wire::Update;

// Every client holds two samples at (4, 8); `spoil` may change what a client answers before it is
// encoded.
class ToyBackend : public Backend {
 public:
  ToyBackend(const codec::Codec& codec, uint64_t clients)
      : environment_{.algorithms = strategy::client_algorithms(),
                     .downlink = codec,
                     .uplink = codec,
                     .limits = {trainer_.layout(), 100}},
        clients_(clients) {
    dataset_.kind = data::Kind::kFloat;
    dataset_.sample_shape = {2};
    dataset_.num_classes = 1;
    dataset_.floats = {4, 8, 4, 8};
    dataset_.labels = {0, 0};
  }
  uint64_t num_clients() const override { return clients_; }
  uint64_t num_samples(uint64_t) const override { return 2; }
  void run(std::span<const uint64_t> clients, RoundTraffic& traffic) override {
    const std::vector<uint32_t> samples = {0, 1};
    for (uint64_t client : clients) {
      if (silent.contains(client)) continue;
      try {
        wire::EncodedMessage answer = client::run_client_task(
            traffic.task(client), environment_,
            [&](std::span<const int64_t>) -> train::Trainer& { return trainer_; },
            {dataset_, samples});
        if (spoil) {
          Update update = decode_update(answer, environment_.uplink, environment_.limits);
          spoil(client, update);
          answer = encode_update(update, environment_.uplink, Key(1), environment_.limits);
        }
        receipts.push_back(traffic.delivered(client, answer));
        if (twice) receipts.push_back(traffic.delivered(client, answer));
      } catch (const Error& error) {
        traffic.failed(client, error.what());
      }
    }
  }

  std::function<void(uint64_t, Update&)> spoil;
  bool twice = false;
  std::set<uint64_t> silent;  // never heard of again
  std::vector<Receipt> receipts;
  strategy::ToyTrainer& trainer() { return trainer_; }

 private:
  strategy::ToyTrainer trainer_;
  client::ClientEnvironment environment_;
  uint64_t clients_;
  data::Dataset dataset_;
};

// Knows nothing of the loss.
class HalfRight : public train::Evaluator {
 public:
  train::EvalSums evaluate(const ParameterSet&) override { return {std::nan(""), 1, 2}; }
};

struct Federation {
  explicit Federation(std::unique_ptr<strategy::Strategy> chosen, uint64_t clients = 4)
      : strategy(std::move(chosen)),
        codec(codec::make_codec(Json::array(), "test")),
        backend(*codec, clients) {
    train.step.lr = 0.5;
    selection.clients_per_round = static_cast<int64_t>(clients);
    loop = std::make_unique<RoundLoop>(
        RoundLoop::Setup{.run = run,
                         .selection = selection,
                         .train = train,
                         .submodel = submodel,
                         .strategy = *strategy,
                         .downlink = *codec,
                         .uplink = *codec,
                         .backend = backend,
                         .evaluator = evaluator,
                         .server = {.layout = backend.trainer().layout(), .num_clients = clients}},
        ParameterSet(backend.trainer().layout()));
  }
  RunOptions run;
  SelectionOptions selection;
  SubmodelOptions submodel;
  train::TrainOptions train;
  std::unique_ptr<strategy::Strategy> strategy;
  std::unique_ptr<codec::Codec> codec;
  ToyBackend backend;
  HalfRight evaluator;
  std::unique_ptr<RoundLoop> loop;
};

std::shared_ptr<ParameterSet> other_layout() {
  return std::make_shared<ParameterSet>(
      std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"w", {1}}}));
}

TEST(RoundLoop, HostileUpdatesEndTheirClientAndNothingElse) {
  const std::vector<std::pair<const char*, std::function<void(Update&)>>> attacks = {
      {"layout", [](Update& u) { u.payloads[0].values = other_layout(); }},
      {"name", [](Update& u) { u.payloads[0].name = "junk"; }},
      {"twice", [](Update& u) { u.payloads.push_back(u.payloads[0]); }},
      {"none", [](Update& u) { u.payloads.clear(); }},
      {"weight", [](Update& u) { u.payloads[0].weight = 1000; }},
      {"negative", [](Update& u) { u.payloads[0].weight = -1; }},
      {"samples", [](Update& u) { u.num_samples = 1e9; }},
      {"scalar", [](Update& u) { u.scalars["macs"] = 1e308; }},
      {"nan scalar", [](Update& u) { u.scalars["train_loss"] = std::nan(""); }},
      {"norm",
       [](Update& u) {
         auto values = std::make_shared<ParameterSet>(*u.payloads[0].values);
         values->values()[0] = 1e9f;
         u.payloads[0].values = values;
       }},
  };
  for (const auto& [name, attack] : attacks) {
    Federation federation(std::make_unique<strategy::FedAvg>(strategy::FedAvg::Options{}));
    federation.backend.spoil = [&](uint64_t client, Update& update) {
      if (client == 0) attack(update);  // the first to answer
    };
    const RoundRecord record = federation.loop->run_round();
    EXPECT_EQ(record.clients_failed, 1u) << name;
    EXPECT_FLOAT_EQ(federation.loop->global().values()[0], 2)
        << name;  // half-way to 4, from the honest three
    EXPECT_FLOAT_EQ(federation.loop->global().values()[1], 4) << name;
  }
}

TEST(RoundLoop, AnsweringTwiceCountsOnce) {
  Federation federation(std::make_unique<strategy::FedAvg>(strategy::FedAvg::Options{}));
  federation.backend.twice = true;
  const RoundRecord record = federation.loop->run_round();
  EXPECT_EQ(record.deliveries_refused, 4u);
  EXPECT_EQ(record.clients_failed, 0u);
  EXPECT_EQ(federation.backend.receipts,
            (std::vector<Receipt>{Receipt::kCounted, Receipt::kRefused, Receipt::kCounted,
                                  Receipt::kRefused, Receipt::kCounted, Receipt::kRefused,
                                  Receipt::kCounted, Receipt::kRefused}));
  EXPECT_FLOAT_EQ(federation.loop->global().values()[0], 2);
}

TEST(RoundLoop, ClientsThatAreNeverHeardOfHaveFailed) {
  Federation federation(std::make_unique<strategy::FedAvg>(strategy::FedAvg::Options{}));
  federation.backend.silent = {1, 3};
  const RoundRecord record = federation.loop->run_round();
  EXPECT_EQ(record.clients_failed, 2u);
  EXPECT_EQ(record.failures,
            (std::vector<std::string>{"client 1: gave no answer", "client 3: gave no answer"}));
  EXPECT_FLOAT_EQ(federation.loop->global().values()[0], 2);
}

TEST(RoundLoop, AForgedFedNovaNormalizerIsRefused) {
  Federation federation(std::make_unique<strategy::FedNova>(strategy::FedNova::Options{}));
  federation.backend.spoil = [](uint64_t client, Update& update) {
    if (client == 0) update.scalars["normalizer"] = 1e17;
  };
  EXPECT_EQ(federation.loop->run_round().clients_failed, 1u);
  EXPECT_FLOAT_EQ(federation.loop->global().values()[0], 2);
}

TEST(RoundLoop, WhenAllFailTheStateIsAsBefore) {
  Federation federation(std::make_unique<strategy::FedAvg>(strategy::FedAvg::Options{}));
  federation.backend.spoil = [](uint64_t, Update& update) { update.payloads.clear(); };
  EXPECT_THROW(federation.loop->run_round(), RoundFailed);
  EXPECT_EQ(federation.loop->rounds_completed(), 0u);
  federation.backend.spoil = {};
  federation.loop->run_round();
  EXPECT_FLOAT_EQ(federation.loop->global().values()[0], 2);
}

TEST(RoundLoop, ALossThatIsNotFiniteDoesNotSpoilTheCheckpoint) {
  Federation federation(std::make_unique<strategy::FedAvg>(strategy::FedAvg::Options{}));
  const RoundRecord record = federation.loop->run_round();
  EXPECT_FALSE(record.loss.has_value());
  EXPECT_EQ(record.accuracy, 0.5);
  const Bytes bytes = encode_checkpoint(federation.loop->checkpoint(1));
  EXPECT_NO_THROW(decode_checkpoint(bytes, federation.loop->global().shared_layout(), "test"));
}

// EF21's mean is over everybody who ever spoke; statistics and counters must stay those of who
// answered.
TEST(RoundSums, Ef21EstimatesOnlyWhatIsTrained) {
  strategy::ToyTrainer trainer;
  std::map<std::string, ParameterSet> estimates;
  ParameterSet estimate(trainer.layout());
  std::ranges::fill(estimate.values(), 1.0f);
  estimates.emplace("delta", estimate);
  strategy::RoundSums sums(2, 1,
                           {strategy::weighted_mean(), strategy::estimated_mean(estimates, 10)});
  Update update;
  auto values = std::make_shared<ParameterSet>(trainer.layout());
  std::ranges::fill(values->values(), 5.0f);
  update.payloads.push_back({"delta", values, 1});
  sums.add(0, update);
  sums.add(1, update);
  const ParameterSet mean = sums.mean("delta", trainer.layout());
  EXPECT_FLOAT_EQ(mean.values("w")[0], 1 + 2 * 5 / 10.0f);
  EXPECT_FLOAT_EQ(mean.values("mean")[0], 5);
  EXPECT_FLOAT_EQ(mean.values("count")[0], 5);
}

}  // namespace
}  // namespace espalier::round

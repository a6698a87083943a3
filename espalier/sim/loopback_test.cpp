// A round over a network that repeats, delays and loses what it carries.
#include "espalier/sim/loopback.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/sim/test_run.h"

namespace espalier::sim {
namespace {

using Event = LoopbackBackend::Event;

struct Scripted {
  Scripted(const std::string& strategy, const std::vector<std::string>& assignments,
           LoopbackBackend::Script script)
      : run(strategy, 2, assignments, [&](round::Backend& backend) -> round::Backend& {
          return loopback.emplace(backend, std::move(script));
        }) {}
  std::optional<LoopbackBackend> loopback;
  TestRun run;
};

const std::vector<std::vector<std::string>> kLinks = {
    {},
    {R"(uplink=[{stage="topk",keep=0.1}])", "model.hidden=[128]"},
    {"model.hidden=[128]", R"(downlink=[{stage="hadamard"},{stage="quantize",bits=4}])",
     "delta_downlink=true", "strategy.clients_per_round=11"},
    {"submodel.name=ordered", "submodel.keep=0.5"}};

TEST(Loopback, RepeatedAndLateMessagesChangeNothing) {
  for (const char* strategy : {"fedavg", "scaffold", "pruning"}) {
    for (const auto& link : kLinks) {
      if (std::string(strategy) == "pruning" && &link - kLinks.data() >= 2) continue;  // refused
      TestRun plain(strategy, 1, link);
      const auto expected = plain.finish();
      Scripted wire(strategy, link, [](uint64_t exchange, uint64_t client) {
        return Event{.requests = 1 + static_cast<uint32_t>(client % 3),
                     .deliveries = 1 + static_cast<uint32_t>((client + exchange) % 2),
                     .late = client % 2 == 0,
                     .impatient = client % 5 == 0};
      });
      EXPECT_EQ(wire.run.finish(), expected) << strategy;
      EXPECT_EQ(wire.run.loop().ledger().bytes_down, plain.loop().ledger().bytes_down);
      EXPECT_EQ(wire.run.loop().ledger().bytes_up, plain.loop().ledger().bytes_up);
      EXPECT_EQ(wire.run.loop().ledger().clients_failed, 0);
      EXPECT_GT(wire.run.last().deliveries_refused, 0u);
    }
  }
}

// An answer of the exchange before is known as such, and its client's answer to this one counts.
TEST(Loopback, AnswersOfTheExchangeBeforeChangeNothing) {
  for (const char* strategy : {"scaffold", "autoflip"}) {
    std::vector<std::string> all = {"strategy.clients_per_round=12"};
    if (std::string(strategy) == "autoflip") all.push_back("strategy.exploration_epochs=2");
    const auto play = [](bool stale) {
      return [stale](uint64_t exchange, uint64_t client) {
        const bool lost = exchange < 2 && client < 3;
        return Event{.fails = lost && !stale, .stale = lost && stale};
      };
    };
    Scripted lost(strategy, all, play(false)), stale(strategy, all, play(true));
    uint64_t refused = 0;
    while (!stale.run.loop().finished()) refused += stale.run.step().deliveries_refused;
    EXPECT_EQ(refused, 6u) << strategy;
    EXPECT_EQ(stale.run.finish(), lost.run.finish()) << strategy;
  }
}

// What a client that was lost has remembered does not count: the next task names the older version.
TEST(Loopback, LostClientsAreThoseOfARoundWithoutThem) {
  for (const auto& [strategy, uplink] :
       {std::pair{"scaffold", "uplink=[]"},
        std::pair{"fedavg", R"(uplink=[{stage="topk",keep=0.1}])"}}) {
    const std::vector<std::string> all = {"strategy.clients_per_round=12", "model.hidden=[128]",
                                          uplink};
    const auto lose = [](uint64_t exchange, uint64_t client) {
      return Event{.fails = exchange == 1 && client < 4, .late = client == 7};
    };
    Scripted one(strategy, all, lose), other(strategy, all, lose);
    one.run.step();
    EXPECT_EQ(one.run.step().clients_failed, 4u);
    EXPECT_EQ(one.run.last().failures.front(), "client 0: the connection was lost");
    for (uint64_t client = 0; client < 12; ++client)
      EXPECT_EQ(one.run.loop().state_versions().at(client), client < 4 ? 1u : 2u);
    EXPECT_EQ(one.run.finish(), other.run.finish());
    EXPECT_EQ(one.run.loop().ledger().clients_failed, 4);
  }
}

TEST(Loopback, ARoundInWhichAllAreLostIsAsIfItHadNotBeen) {
  for (const char* strategy : {"fedavg", "scaffold", "autoflip"}) {
    const std::vector<std::string> quick =
        std::string(strategy) == "autoflip"
            ? std::vector<std::string>{"strategy.exploration_epochs=2"}
            : std::vector<std::string>{};
    TestRun plain(strategy, 1, quick);
    uint64_t lost = std::string(strategy) == "autoflip" ? 1 : 0;  // the training after it
    Scripted wire(strategy, quick,
                  [&](uint64_t exchange, uint64_t) { return Event{.fails = exchange == lost}; });
    EXPECT_THROW(wire.run.step(), round::RoundFailed);
    EXPECT_EQ(wire.run.finish(), plain.finish()) << strategy;
  }
}

// What follows the training of a round belongs to it.
TEST(Loopback, ARoundThatIsLeftWhileClientsEvaluateIsAsIfItHadNotBeen) {
  const std::string topk = R"(uplink=[{stage="topk",keep=0.1}])";
  const std::vector<std::string> narrow = {"data.synthetic_shape=[1,8,8]",
                                           "model.name=resnet8",
                                           "model.width=0.25",
                                           "submodel.name=ordered",
                                           "submodel.keep=0.5",
                                           "submodel.static_batch_norm=true",
                                           "eval_every=1",
                                           R"(devices=[{name="whole",keep=1},{name="half"}])"};
  const std::vector<std::pair<const char*, std::vector<std::string>>> cases = {
      {"scaffold", {"evaluate=clients", "eval_every=1"}},
      {"fedadam", {"evaluate=clients", "eval_every=1"}},
      {"fedavg", {"evaluate=clients", "eval_every=1", "model.hidden=[128]", topk}},
      {"fedavg",
       {"evaluate=clients", "eval_every=1", "model.hidden=[128]", topk, "error_feedback=ef21"}},
      {"fedavg",
       {"evaluate=clients", "eval_every=1", "model.hidden=[128]",
        R"(downlink=[{stage="hadamard"},{stage="quantize",bits=4}])", "delta_downlink=true"}},
      {"fedavg", narrow}};
  for (const auto& [strategy, assignments] : cases) {
    std::vector<std::string> all = assignments;
    all.push_back("rounds=3");
    TestRun plain(strategy, 1, all);
    // Exchange 1 is the evaluation of round 1, which is made again as 2 and 3; 5 is that of
    // round 2.
    Scripted wire(strategy, all, [](uint64_t exchange, uint64_t) {
      return Event{.stops = exchange == 1 || exchange == 5};
    });
    EXPECT_THROW(wire.run.step(), round::RoundFailed) << strategy;
    EXPECT_EQ(wire.run.loop().rounds_completed(), 0U);
    wire.run.step();
    EXPECT_THROW(wire.run.step(), round::RoundFailed) << strategy;
    EXPECT_EQ(wire.run.loop().rounds_completed(), 1U);
    EXPECT_EQ(wire.run.finish(), plain.finish()) << strategy;
  }
}

}  // namespace
}  // namespace espalier::sim

// Masks on the whole road of a round: AutoFLIP, the criteria it is compared with, and ADP.
#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/nn/gates.h"
#include "espalier/sim/test_run.h"
#include "espalier/strategy/pruning.h"

namespace espalier::sim {
namespace {

using Assignments = std::vector<std::string>;

Assignments joined(Assignments a, const Assignments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

const std::string kQuantize = R"([{stage="hadamard"},{stage="dithered",bits=3}])";
const std::string kTopk = R"([{stage="topk",keep=0.1}])";
const Assignments kImages = {"data.synthetic_shape=[1,12,12]", "rounds=5", "model.name=cnn",
                             "model.width=0.25"};
const Assignments kExplore = {"strategy.exploration_epochs=2", "strategy.explorers=0.4"};

struct Method {
  std::string name, strategy;
  Assignments assignments;
};
std::vector<Method> methods() {
  return {
      {"autoflip", "autoflip", kExplore},
      {"robust_agreement", "autoflip",
       joined(kExplore, {"strategy.guidance=robust", "strategy.agreement=0.5"})},
      {"refreshed", "autoflip", joined(kExplore, {"strategy.refresh_rounds=2"})},
      {"structured", "autoflip",
       joined(kExplore, {"strategy.by_unit=true", "strategy.unit_threshold=0.5",
                         "strategy.sparsity=0.5", "strategy.min_keep=0.1"})},
      {"structured_refreshed", "autoflip",
       joined(kExplore,
              {"strategy.by_unit=true", "strategy.unit_threshold=0.5", "strategy.sparsity=0.5",
               "strategy.min_keep=0.1", "strategy.refresh_rounds=2"})},
      // Removing units prunes more of others' inputs than the threshold saw: what is restored must
      // not be removed again.
      {"structured_by_weight", "autoflip",
       joined(kExplore, {"strategy.unit_threshold=0.5", "strategy.sparsity=0.7"})},
      {"agreed_with_a_floor", "autoflip",
       joined(kExplore,
              {"strategy.agreement=0.9", "strategy.min_keep=0.5", "strategy.sparsity=0.5"})},
      {"from_exploration", "autoflip", joined(kExplore, {"strategy.init_from_exploration=true"})},
      {"magnitude", "pruning", {"strategy.start_round=2"}},
      {"gradual", "pruning", {"strategy.end_round=4", "strategy.refresh_rounds=2"}},
      {"random", "pruning", {"strategy.criterion=random"}},
      {"random_step", "pruning", {"strategy.criterion=random-step"}},
      {"prunefl", "pruning",
       joined(kExplore, {"strategy.criterion=prunefl", "strategy.refresh_rounds=2"})},
      {"adp_magnitude", "adp", {"strategy.mode=magnitude", "strategy.threshold=0.05"}},
      {"adp_magnitude_scaffold",
       "adp",
       {"strategy.mode=magnitude", "strategy.threshold=0.05", "strategy.base=scaffold"}},
      {"adp_gated", "adp", {"model.gates=gated", "strategy.ratio=0.3", "train.weight_decay=0.01"}},
      {"adp_open_at_first",
       "adp",
       {"model.gates=gated", "model.gate_init=open", "strategy.ratio=0.3", "strategy.ratio_start=2",
        "strategy.ratio_rounds=2"}},
      {"adp_fbs",
       "adp",
       {"model.gates=fbs", "strategy.mode=fbs", "strategy.ratio=0.3", "strategy.ratio_rounds=3",
        "strategy.base=fedprox"}},
  };
}

class EveryPruning : public testing::TestWithParam<Method> {};

TEST_P(EveryPruning, ThreadsAndCheckpointsChangeNothing) {
  const Assignments assignments =
      joined(joined(GetParam().assignments, kImages), {"downlink=" + kQuantize});
  TestRun one(GetParam().strategy, 1, assignments);
  const auto expected = one.finish();
  EXPECT_EQ(one.loop().ledger().clients_failed, 0);
  TestRun three(GetParam().strategy, 3, assignments);
  EXPECT_EQ(three.finish(), expected);
  EXPECT_EQ(three.loop().ledger().bytes_down, one.loop().ledger().bytes_down);
  EXPECT_EQ(three.loop().ledger().bytes_up, one.loop().ledger().bytes_up);
  TestRun crashed(GetParam().strategy, 2, assignments);
  crashed.step();
  crashed.step();
  const Bytes saved = encode_checkpoint(crashed.loop().checkpoint(1));
  crashed.step();
  crashed.loop().restore(
      round::decode_checkpoint(saved, crashed.loop().global().shared_layout(), "test"));
  EXPECT_EQ(crashed.finish(), expected);
}

// A biased uplink brings error feedback along.
TEST_P(EveryPruning, GoesWithEveryKindOfUplink) {
  for (const std::string& uplink : {kQuantize, kTopk}) {
    TestRun run(GetParam().strategy, 2,
                joined(joined(GetParam().assignments, kImages), {"rounds=4", "uplink=" + uplink}));
    run.finish();
    EXPECT_EQ(run.loop().ledger().clients_failed, 0) << uplink;
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryPruning, testing::ValuesIn(methods()),
                         [](const auto& row) { return row.param.name; });

// Whoever receives a round's weights has its ratio: they carry it.
TEST(AdpRun, EveryRoundHasTheRatioOfItsSchedule) {
  TestRun run(
      "adp", 2,
      joined(kImages, {"rounds=5", "model.gates=gated", "model.gate_init=open",
                       "strategy.ratio=0.5", "strategy.ratio_start=1", "strategy.ratio_rounds=2"}));
  for (const double ratio : {1.0, 1.0, 0.75, 0.5, 0.5}) {
    const auto record = run.step();
    EXPECT_DOUBLE_EQ(record.extra.at("gate_ratio"), ratio) << record.round;
    EXPECT_NEAR(nn::gate_ratio(run.loop().global()).value_or(0), ratio, 1e-6) << record.round;
  }
}

TEST(PruningRun, TheMaskTravelsOncePerClientAndValuesShrink) {
  const Assignments small = joined(kImages, {"rounds=3", "strategy.clients_per_round=12"});
  TestRun dense("fedavg", 2, small);
  TestRun run("pruning", 2, joined(small, {"strategy.criterion=random", "strategy.sparsity=0.7"}));
  const auto full = dense.step(), first = run.step(), second = run.step();
  // 30 % of the values and n·H(.7) bits of mask; then the values alone.
  const double values = static_cast<double>(dense.loop().global().size()) * 4 * 12;
  const double mask = static_cast<double>(dense.loop().global().size()) * 0.8813 / 8 * 12;
  EXPECT_NEAR(static_cast<double>(full.bytes_down), values, 0.02 * values);
  EXPECT_NEAR(static_cast<double>(second.bytes_down), 0.3 * values, 0.02 * values);
  EXPECT_NEAR(static_cast<double>(first.bytes_down - second.bytes_down), mask, 0.05 * mask);
  EXPECT_NEAR(static_cast<double>(first.bytes_up), 0.3 * values, 0.02 * values);
}

TEST(PruningRun, TheLedgerHasTheExploration) {
  const Assignments assignments = joined(kImages, kExplore);
  TestRun run("autoflip", 2, assignments);
  const auto first = run.step(), second = run.step();
  EXPECT_EQ(first.exploration.clients, 5u);  // ⌈0.4·12⌉
  EXPECT_GT(first.exploration.macs, 0);
  const double dense = static_cast<double>(run.loop().global().size()) * 4 * 5;
  EXPECT_NEAR(static_cast<double>(first.exploration.bytes_up), dense, 0.02 * dense);
  EXPECT_NEAR(static_cast<double>(first.exploration.bytes_down), dense, 0.02 * dense);
  EXPECT_EQ(second.exploration.clients, 0u);
  const auto& ledger = run.loop().ledger();
  EXPECT_EQ(static_cast<uint64_t>(ledger.exploration_bytes_up), first.exploration.bytes_up);
  EXPECT_EQ(static_cast<uint64_t>(ledger.bytes_up), first.bytes_up + second.bytes_up);
  EXPECT_GT(first.bytes_up, first.exploration.bytes_up);
}

TEST(PruningRun, StructuredPruningTrainsASmallerNetwork) {
  const Assignments assignments = joined(
      joined(kImages, kExplore), {"strategy.by_unit=true", "strategy.unit_threshold=0.5",
                                  "strategy.sparsity=0.5", "strategy.min_keep=0.25", "rounds=2"});
  TestRun dense("fedavg", 2, joined(kImages, {"rounds=2"}));
  TestRun run("autoflip", 2, assignments);
  const auto full = (dense.step(), dense.step()), small = (run.step(), run.step());
  EXPECT_LT(small.macs, 0.8 * full.macs);
  EXPECT_LT(static_cast<double>(small.bytes_down), 0.55 * static_cast<double>(full.bytes_down));
  EXPECT_LT(small.extra.at("part_parameters"),
            0.55 * static_cast<double>(run.loop().global().layout().num_trainable()));
  EXPECT_EQ(run.loop().ledger().clients_failed, 0);
}

// Text from files in LEAF's format, one client per speaker; an LSTM's coupled gates are units too.
TEST(PruningRun, RecurrentNetsOnText) {
  const Assignments text = {"data.name=leaf",
                            "data.root=" ESPALIER_FIXTURES "/text",
                            "data.partition.name=natural",
                            "model.name=lstm",
                            "model.lstm_units=12",
                            "strategy.clients_per_round=2",
                            "train.max_steps=4",
                            "rounds=3"};
  for (const Assignments& more :
       {Assignments{}, Assignments{"strategy.by_unit=true", "strategy.unit_threshold=0.5",
                                   "strategy.sparsity=0.5"}}) {
    TestRun run("autoflip", 2, joined(joined(text, kExplore), more));
    run.finish();
    EXPECT_EQ(run.loop().ledger().clients_failed, 0);
    EXPECT_LT(run.last().extra.at("mask_kept"), 0.75);
  }
}

// A lossy or biased uplink changes what is pruned a little, and how much not at all.
TEST(PruningRun, TheShareThatIsPrunedIsTheConfiguredOne) {
  for (const char* uplink : {"[]", kQuantize.c_str(), kTopk.c_str()}) {
    for (const double lr : {0.1, 1e-4}) {
      TestRun run(
          "autoflip", 2,
          joined(joined(kImages, kExplore), {concat("uplink=", uplink), concat("train.lr=", lr),
                                             "rounds=1", "train.max_steps=2"}));
      run.step();
      EXPECT_NEAR(run.last().extra.at("mask_kept"), 0.7, 0.03) << uplink << " " << lr;
    }
  }
}

// What a refresh goes by is what clients measured, whatever becomes of their updates: a residual is
// no square, and a value that is left out is not 0.
TEST(PruningRun, RefreshesPruneTheConfiguredShareBehindEveryUplink) {
  for (const std::string& uplink :
       {kQuantize, kTopk, std::string(R"([{stage="hadamard"},{stage="trellis",bits=2.5}])"),
        std::string(R"([{stage="hadamard"},{stage="eden",bits=2}])"),
        std::string(R"([{stage="cast"}])"), std::string(R"([{stage="subsample",keep=0.1}])"),
        std::string(R"([{stage="quantize",bits=2}])")}) {
    for (const Assignments& method :
         {Assignments{"strategy.name=autoflip", "strategy.sparsity=0.3"},
          Assignments{"strategy.name=pruning", "strategy.criterion=prunefl",
                      "strategy.sparsity=0.3"}}) {
      TestRun run("autoflip", 2,
                  joined(joined(joined(method, kImages), kExplore),
                         {"uplink=" + uplink, "rounds=5", "strategy.refresh_rounds=1"}));
      for (int round = 1; round <= 5; ++round) {
        const auto record = run.step();
        EXPECT_EQ(record.clients_failed, 0U) << method[0] << uplink << round;
        EXPECT_NEAR(record.extra.at("mask_kept"), 0.7, 0.03) << method[0] << uplink << round;
      }
    }
  }
}

// The squares of a change travel beside it where it arrives as something else, and only there.
TEST(PruningRun, ARefreshSendsDeviationsApartWhereTheUplinkSpoilsThem) {
  for (const auto& [uplink, apart] : {std::pair(kQuantize, false), std::pair(kTopk, true)}) {
    TestRun run(
        "autoflip", 2,
        joined(joined(kImages, kExplore), {"uplink=" + uplink, "strategy.refresh_rounds=1"}));
    run.step();
    const auto refresh = run.step();
    const double dense = static_cast<double>(run.loop().global().size()) * 4 * 5;
    EXPECT_EQ(static_cast<double>(refresh.bytes_up) > dense, apart) << uplink;
  }
}

TEST(PruningRun, AgreementKeepsTheFloor) {
  TestRun run("autoflip", 2,
              joined(joined(kImages, kExplore), {"strategy.agreement=1.0", "strategy.min_keep=0.5",
                                                 "strategy.sparsity=0.5", "rounds=1"}));
  run.step();
  EXPECT_GE(run.last().extra.at("mask_kept"), 0.5);
}

// Counters of batch norms grow with every step; their squares are nobody's business.
TEST(PruningRun, RefreshingNetsWithBatchNorm) {
  TestRun run("autoflip", 2,
              {"data.synthetic_shape=[1,8,8]", "model.name=resnet8", "model.width=0.25", "rounds=4",
               "strategy.refresh_rounds=1", "strategy.explorers=0.1",
               "strategy.exploration_epochs=1", "train.epochs=20", "train.batch_size=5",
               "train.max_steps=70", "strategy.clients_per_round=2"});
  run.finish();
  EXPECT_EQ(run.loop().ledger().clients_failed, 0);
}

// A diverging explorer is that client's failure, with and without the others' one by one.
TEST(PruningRun, AnExplorerThatDivergesIsLeftOut) {
  for (const char* agreement : {"strategy.agreement=0.0", "strategy.agreement=0.5"}) {
    TestRun run(
        "autoflip", 2,
        joined(kExplore, {"data.partition.alpha=0.1", "train.lr=30", "rounds=1",
                          "strategy.explorers=1.0", "strategy.exploration_epochs=4", agreement}));
    try {
      run.step();
      EXPECT_GT(run.last().exploration.clients, 0u);
    } catch (const round::RoundFailed&) {
      // All of them may diverge; that is no other failure either.
    }
  }
}

// What sparse updates leave out is zero, so that the next model has the bits of dense ones.
TEST(AdpRun, SparseUpdatesGiveTheModelOfDenseOnes) {
  const Assignments gated =
      joined(kImages, {"model.gates=gated", "strategy.ratio=0.2", "train.weight_decay=0.01"});
  const Assignments magnitude =
      joined(kImages, {"strategy.mode=magnitude", "strategy.threshold=0.05"});
  for (const Assignments& mode : {gated, magnitude}) {
    TestRun sparse("adp", 2, mode);
    TestRun dense("adp", 2, joined(mode, {"strategy.sparse_updates=false"}));
    EXPECT_EQ(sparse.finish(), dense.finish());
    EXPECT_LT(sparse.loop().ledger().bytes_up, dense.loop().ledger().bytes_up);
  }
}

// At half a bit per value a list of the values costs more than all of them.
TEST(AdpRun, AMaskThatDoesNotPayIsNotSent) {
  const Assignments coarse =
      joined(kImages, {"strategy.mode=magnitude", "strategy.threshold=0.01",
                       R"(uplink=[{stage="hadamard"},{stage="dithered",bits=0.5}])"});
  TestRun sparse("adp", 2, coarse);
  TestRun dense("adp", 2, joined(coarse, {"strategy.sparse_updates=false"}));
  sparse.finish();
  dense.finish();
  EXPECT_LE(sparse.loop().ledger().bytes_up, dense.loop().ledger().bytes_up);
}

TEST(PruningRun, WhatDoesNotGoTogetherIsRefused) {
  const Assignments base = joined(kImages, kExplore);
  EXPECT_THROW(TestRun("autoflip", 1, joined(base, {"error_feedback=ef21", "uplink=" + kTopk})),
               Error);
  EXPECT_THROW(TestRun("autoflip", 1, joined(base, {"delta_downlink=true"})), Error);
  EXPECT_THROW(TestRun("autoflip", 1, joined(base, {"submodel.name=ordered"})), Error);
  // Layers that look at all units compute something else without those that are gone.
  for (const Assignments& mixed :
       {Assignments{"model.gates=gated"}, Assignments{"model.name=resnet8", "model.norm=group"}}) {
    const Assignments whole = joined(joined(base, mixed), {"strategy.by_unit=true"});
    EXPECT_NO_THROW(TestRun("autoflip", 1, whole));
    EXPECT_THROW(TestRun("autoflip", 1, joined(whole, {"strategy.unit_threshold=0.5"})), Error);
  }
  EXPECT_THROW(TestRun("adp", 1, kImages), Error);  // a model without gates
  EXPECT_THROW(TestRun("adp", 1, joined(kImages, {"model.gates=fbs"})), Error);
}

}  // namespace
}  // namespace espalier::sim

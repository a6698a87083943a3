// Sub-models on the whole road of a round: every method, on every kind of model, with codecs both
// ways.
#include <gtest/gtest.h>

#include <bit>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/sim/test_run.h"

namespace espalier::sim {
namespace {

using Assignments = std::vector<std::string>;

Assignments joined(Assignments a, const Assignments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

const std::string kQuantize = R"([{stage="hadamard"},{stage="dithered",bits=3}])";
const std::string kTopk = R"([{stage="topk",keep=0.1}])";
const Assignments kImages = {"data.synthetic_shape=[1,12,12]", "rounds=3"};

struct Method {
  std::string name;
  Assignments assignments;
};
const std::vector<Method>& methods() {
  static const std::vector<Method> all = {
      {"federated_dropout", {"submodel.name=federated-dropout", "submodel.keep=0.6"}},
      {"shared", {"submodel.name=federated-dropout", "submodel.shared=true"}},
      {"ordered", {"submodel.name=ordered", "submodel.keep=0.5"}},
      {"rolling", {"submodel.name=rolling", "submodel.keep=0.5"}},
      {"count", {"submodel.name=federated-dropout", "submodel.aggregation=count"}},
      {"stays_for_two_rounds",
       {"submodel.name=federated-dropout", "submodel.keep=0.6", "submodel.stay_rounds=2"}},
      {"stays_for_life",
       {"submodel.name=federated-dropout", "submodel.keep=0.6", "submodel.stay_rounds=0"}},
      {"by_importance", {"submodel.name=importance", "submodel.keep=0.6"}},
      {"whole_layers",
       {"submodel.name=federated-dropout", "submodel.keep=0.6",
        R"(submodel.whole_layers=["conv1"])"}},
      {"whole_at_both_ends",
       {"submodel.name=ordered", "submodel.keep=0.5", "submodel.whole_until=1",
        "submodel.whole_from=3"}},
      {"grows",
       {"submodel.name=ordered", "submodel.keep=0.5", "submodel.whole_from=2",
        "submodel.grow=true"}},
      {"devices",
       {"submodel.name=ordered",
        R"(devices=[{name="a",keep=1},{name="b",keep=0.5},{name="c",keep=0.25}])"}},
      {"nested_widths",
       {"submodel.name=ordered", "submodel.keep=0.8", "submodel.widths=[0.25,0.5]",
        "submodel.self_distillation=0.5"}},
      {"heterofl_options",
       {"submodel.name=ordered", "submodel.keep=0.5", "submodel.scaler=true",
        "submodel.masked_cross_entropy=true", "submodel.static_batch_norm=true",
        "submodel.eval_widths=[0.5]", R"(devices=[{name="a",keep=1},{name="b"}])"}}};
  return all;
}

class EveryMethod : public testing::TestWithParam<Method> {};

TEST_P(EveryMethod, ThreadsAndCheckpointsChangeNothing) {
  const Assignments assignments =
      joined(joined(GetParam().assignments, kImages),
             {"model.name=resnet8", "downlink=" + kQuantize, "uplink=" + kQuantize});
  TestRun one("fedavg", 1, assignments);
  const auto expected = one.finish();
  EXPECT_EQ(one.loop().ledger().clients_failed, 0);
  TestRun three("fedavg", 3, assignments);
  EXPECT_EQ(three.finish(), expected);
  EXPECT_EQ(three.loop().ledger().bytes_up, one.loop().ledger().bytes_up);
  TestRun crashed("fedavg", 2, assignments);
  crashed.step();
  const Bytes saved = encode_checkpoint(crashed.loop().checkpoint(1));
  crashed.step();
  crashed.loop().restore(
      round::decode_checkpoint(saved, crashed.loop().global().shared_layout(), "test"));
  EXPECT_EQ(crashed.finish(), expected);
}

// A biased uplink keeps a residual per value of the whole model, whatever part a client trains.
TEST_P(EveryMethod, KeepsResiduals) {
  const Assignments assignments =
      joined(joined(GetParam().assignments, kImages), {"model.name=resnet8", "uplink=" + kTopk});
  TestRun run("fedavg", 2, assignments), again("fedavg", 1, assignments);
  EXPECT_EQ(run.finish(), again.finish());
  EXPECT_EQ(run.loop().ledger().clients_failed, 0);
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryMethod, testing::ValuesIn(methods()),
                         [](const auto& row) { return row.param.name; });

// Every model of the registry that needs no file of its own.
class EveryModel : public testing::TestWithParam<Method> {};

TEST_P(EveryModel, TrainsSubmodelsAndSendsFewerBytes) {
  const Assignments assignments = joined(GetParam().assignments, {"rounds=2"});
  TestRun whole("fedavg", 2, assignments);
  TestRun part("fedavg", 2,
               joined(assignments, {"submodel.name=federated-dropout", "submodel.keep=0.5"}));
  whole.finish();
  part.finish();
  EXPECT_EQ(part.loop().ledger().clients_failed, 0);
  EXPECT_LT(part.loop().ledger().bytes_down, whole.loop().ledger().bytes_down * 7 / 10);
  EXPECT_LT(part.loop().ledger().bytes_up, whole.loop().ledger().bytes_up * 7 / 10);
  EXPECT_LT(part.loop().ledger().macs, whole.loop().ledger().macs * 0.7);
}

const std::string kSmallImage = "data.synthetic_shape=[3,16,16]";
INSTANTIATE_TEST_SUITE_P(
    Models, EveryModel,
    testing::Values(Method{"mlp", {"model.name=mlp", "model.hidden=[32,24]"}},
                    Method{"cnn", {"model.name=cnn", kSmallImage, "model.width=0.5"}},
                    Method{"cnn_cifar", {"model.name=cnn-cifar", kSmallImage, "model.width=0.5"}},
                    Method{"all_cnn", {"model.name=all-cnn", kSmallImage, "model.width=0.25"}},
                    Method{"resnet8", {"model.name=resnet8", kSmallImage}},
                    Method{"resnet8_group",
                           {"model.name=resnet8", "model.norm=group", kSmallImage}},
                    Method{"vgg11",
                           {"model.name=vgg11", "data.synthetic_shape=[3,32,32]",
                            "model.width=0.125", "train.max_steps=1"}}),
    [](const auto& row) { return row.param.name; });

TEST(Submodels, KeepingEverythingIsFedAvgBitForBit) {
  // A biased uplink too: its error feedback goes on as without sub-models.
  for (const std::string& uplink : {std::string("uplink=[]"), "uplink=" + kTopk}) {
    const Assignments assignments = joined(kImages, {uplink});
    TestRun plain("fedavg", 2, assignments);
    const auto expected = plain.finish();
    for (const char* name : {"federated-dropout", "ordered", "rolling"}) {
      TestRun whole("fedavg", 2,
                    joined(assignments, {concat("submodel.name=", name), "submodel.keep=1.0"}));
      EXPECT_EQ(whole.finish(), expected) << name;
      EXPECT_EQ(whole.loop().ledger().bytes_down, plain.loop().ledger().bytes_down) << name;
      EXPECT_EQ(whole.loop().ledger().bytes_up, plain.loop().ledger().bytes_up) << name;
    }
  }
}

// Every kind of codec, both ways.
TEST(Submodels, EveryCodecCarriesThem) {
  for (const char* stages : {R"([{stage="hadamard"},{stage="quantize",bits=4}])",
                             R"([{stage="kashin"},{stage="quantize",bits=4}])",
                             R"([{stage="hadamard"},{stage="eden",bits=3}])",
                             R"([{stage="hadamard"},{stage="trellis",bits=2.5}])",
                             R"([{stage="subsample",keep=0.5}])", R"([{stage="randomk",keep=0.5}])",
                             R"([{stage="topk",keep=0.5}])", R"([{stage="cast",to="bf16"}])"}) {
    TestRun run("fedavg", 2,
                {"submodel.name=federated-dropout", "model.hidden=[128]", "rounds=2",
                 concat("uplink=", stages), concat("downlink=", stages)});
    run.finish();
    EXPECT_EQ(run.loop().ledger().clients_failed, 0) << stages;
  }
}

// Two rounds of a moving window: server momentum of the first must not move in the second what its
// clients do not hold.
TEST(Submodels, WhatNobodyTrainedKeepsItsBits) {
  for (const auto& row : strategy::strategy_rows()) {
    const strategy::Traits traits = row.create({}, {})->traits();
    if (traits.client_state || traits.masks || !traits.weights_travel) continue;
    for (const char* aggregation : {"zero", "count"}) {
      TestRun run(row.name, 2,
                  {"submodel.name=rolling", "submodel.keep=0.25",
                   concat("submodel.aggregation=", aggregation)});
      run.step();
      const ParameterSet before = run.loop().global();
      run.step();
      const ParameterSet& after = run.loop().global();
      const auto part = submodel::choose_submodel(submodel::find_selection("rolling"),
                                                  after.shared_layout(), 0.25, 2, Key(0));
      ParameterSet mark(after.shared_layout()), ones(part->layout());
      std::ranges::fill(ones.values(), 1.0f);
      part->merge(ones, mark);
      size_t changed = 0;
      for (size_t i = 0; i < after.size(); ++i) {
        const bool same = std::bit_cast<uint32_t>(before.values()[i]) ==
                          std::bit_cast<uint32_t>(after.values()[i]);
        if (mark.values()[i] == 0) {
          ASSERT_TRUE(same) << row.name << " " << i;
        }
        changed += same ? 0 : 1;
      }
      EXPECT_GT(changed, 50u) << row.name;
    }
  }
}

// A hand-made round of three weights: counts divide by who trained, zero by everybody.
TEST(Submodels, AggregationDividesByWhatItSays) {
  const auto layout = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{.name = "w", .shape = {3}, .units = {{.axis = 0, .group = 0}}}},
      std::vector<UnitGroup>{{"w", 3}});
  const auto first =
      std::make_shared<submodel::Submodel>(layout, std::vector<std::vector<uint32_t>>{{0, 1}});
  for (const bool zero : {true, false}) {
    strategy::RoundSums sums(2, 10, {zero ? strategy::weighted_mean() : strategy::covered_mean()});
    wire::Update part;
    part.num_samples = 3;
    part.submodel = first;
    part.payloads.push_back(
        {"delta", std::make_shared<ParameterSet>(first->layout(), AlignedVector<float>{4, 8}), 3});
    sums.add(0, part);
    wire::Update whole;
    whole.num_samples = 1;
    whole.payloads.push_back(
        {"delta", std::make_shared<ParameterSet>(layout, AlignedVector<float>{0, 4, 2}), 1});
    sums.add(1, whole);
    const ParameterSet mean = sums.mean("delta", layout);
    EXPECT_FLOAT_EQ(mean.values()[0], 3);
    EXPECT_FLOAT_EQ(mean.values()[1], 7);
    EXPECT_FLOAT_EQ(mean.values()[2], zero ? 0.5f : 2.0f);
  }
}

TEST(Submodels, StatefulStrategiesNeedUnitsThatStay) {
  TestRun ordered("scaffold", 2, {"submodel.name=ordered", "submodel.keep=0.5"});
  EXPECT_NO_THROW(ordered.finish());
  EXPECT_EQ(ordered.loop().ledger().clients_failed, 0);
  EXPECT_THROW(TestRun("scaffold", 2, {"submodel.name=federated-dropout"}), Error);
  EXPECT_THROW(TestRun("scaffold", 2, {"submodel.name=rolling"}), Error);
  EXPECT_THROW(TestRun("scaffold", 2,
                       {"submodel.name=ordered", R"(devices=[{name="a",keep=1},{name="b"}])"}),
               Error);
  const std::string topk = R"(uplink=[{stage="topk",keep=0.1}])";
  EXPECT_NO_THROW(TestRun("fedavg", 2, {"submodel.name=ordered", topk}).finish());
  EXPECT_NO_THROW(TestRun("fedavg", 2, {"submodel.name=rolling", topk}).finish());
  EXPECT_THROW(TestRun("fedavg", 2, {"submodel.name=rolling", topk, "error_feedback=residual"}),
               Error);
  EXPECT_THROW(TestRun("fedavg", 2, {"submodel.name=ordered", topk, "error_feedback=ef21"}), Error);
  EXPECT_THROW(
      TestRun("fedavg", 2,
              {"submodel.name=ordered", "delta_downlink=true", "strategy.clients_per_round=12"}),
      Error);
}

TEST(Submodels, TheSlowestClientMakesTheSimulatedRound) {
  const std::string devices =
      R"(devices=[{name="fast",keep=1,gmacs_per_second=1,down_mbit=1,up_mbit=1},)"
      R"({name="slow",keep=1,gmacs_per_second=0.001,down_mbit=0.01,up_mbit=0.005}])";
  TestRun run("fedavg", 2, {devices, "strategy.clients_per_round=12"});
  const auto record = run.step();
  const double each_down = static_cast<double>(record.bytes_down) / 12 * 8;
  EXPECT_NEAR(record.simulated.down, each_down / 1e4, 0.01 * record.simulated.down);
  EXPECT_NEAR(record.simulated.up, 2 * record.simulated.down, 0.1 * record.simulated.up);
  EXPECT_GT(record.simulated.compute, 0);
  EXPECT_DOUBLE_EQ(run.loop().ledger().simulated_seconds, record.simulated.total());
}

TEST(Submodels, OneDeviceCanBeSelectedAlone) {
  const std::string devices = R"(devices=[{name="a",share=3},{name="b",share=1}])";
  TestRun run("fedavg", 2, {devices, "strategy.device=b", "strategy.clients_per_round=3"});
  EXPECT_NO_THROW(run.finish());
  EXPECT_THROW(TestRun("fedavg", 2, {devices, "strategy.device=b", "strategy.clients_per_round=4"}),
               Error);
  EXPECT_THROW(TestRun("fedavg", 2, {devices, "strategy.device=bb"}), Error);
  EXPECT_THROW(TestRun("fedavg", 2, {R"(devices=[{name="a",keep=0.5}])"}), Error);
}

TEST(Submodels, WidthsAreEvaluatedToo) {
  TestRun run("fedavg", 2,
              {"submodel.name=ordered", "submodel.keep=1.0", "submodel.widths=[0.25,0.5]",
               "submodel.eval_widths=[0.25,1]", "rounds=12", "model.hidden=[128]"});
  run.finish();
  EXPECT_EQ(run.last().width_accuracy.at(1.0), *run.last().accuracy);
  EXPECT_GT(run.last().width_accuracy.at(0.25), 0.35);
}

// Clients are synthetic, their samples known: the statistics must be those that a trainer computes
// over the samples of the clients that can hold the whole model.
TEST(Submodels, StaticStatisticsAreTheGlobalModelsOverTheClientsSamples) {
  // Behind a lossy downlink too: they go into the model as it is.
  const Assignments assignments =
      joined(kImages, {"model.name=resnet8", "submodel.name=ordered", "submodel.keep=1.0",
                       "submodel.static_batch_norm=true", "strategy.clients_per_round=12",
                       "rounds=1", "downlink=" + kQuantize});
  TestRun run("fedavg", 2, assignments);
  const auto record = run.step();
  EXPECT_TRUE(record.failures.empty());
  const ParameterSet& global = run.loop().global();
  const auto trainer = run.trainer();
  trainer->load(global);
  std::map<std::string, std::vector<double>> expected;
  double total = 0;
  for (uint64_t client = 0; client < 12; ++client) {
    std::vector<uint32_t> samples;
    run.partition().samples(client, samples);
    const ParameterSet mine = trainer->statistics(*run.data().train, samples, 10).values;
    for (const ParameterInfo& tensor : mine.layout().tensors()) {
      auto& sums = expected[tensor.name];
      sums.resize(static_cast<size_t>(tensor.size));
      for (size_t i = 0; i < sums.size(); ++i)
        sums[i] += static_cast<double>(samples.size()) * mine.values(tensor)[i];
    }
    total += static_cast<double>(samples.size());
  }
  ASSERT_FALSE(expected.empty());
  for (const auto& [name, sums] : expected) {
    for (size_t i = 0; i < sums.size(); ++i)
      EXPECT_NEAR(global.values(name)[i], sums[i] / total, 1e-4 * (1 + sums[i] / total)) << name;
  }
}

// Normalization undoes the scaler, as long as its statistics are of scaled outputs: a width is
// evaluated as the net without the scaler would be.
TEST(Submodels, StaticStatisticsOfAWidthAreThoseOfItsScaledNet) {
  TestRun run("fedavg", 2,
              joined(kImages,
                     {"model.name=resnet8", "submodel.name=ordered", "submodel.keep=1.0",
                      "submodel.scaler=true", "submodel.static_batch_norm=true",
                      "submodel.eval_widths=[0.25]", "strategy.clients_per_round=12", "rounds=3"}));
  run.finish();
  const ParameterSet& global = run.loop().global();
  const auto part = run.loop().submodels().at_width(0.25);
  ParameterSet narrow = part->extract(global);
  models::ModelOptions model;
  model.name = "resnet8";
  const auto trainer =
      models::make_trainer(model, train::spec_of(*run.data().train), {}, part->units());
  std::map<std::string, std::vector<double>> sums;
  double total = 0;
  trainer->load(narrow);
  for (uint64_t client = 0; client < 12; ++client) {
    std::vector<uint32_t> samples;
    run.partition().samples(client, samples);
    const ParameterSet mine = trainer->statistics(*run.data().train, samples, 10).values;
    const auto weight = static_cast<double>(samples.size());
    total += weight;
    for (const ParameterInfo& tensor : mine.layout().tensors()) {
      auto& sum = sums[tensor.name];
      sum.resize(static_cast<size_t>(tensor.size));
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += weight * mine.values(tensor)[i];
    }
  }
  for (const auto& [name, sum] : sums) {
    for (size_t i = 0; i < sum.size(); ++i)
      narrow.values(name)[i] = static_cast<float>(sum[i] / total);
  }
  trainer->load(narrow);
  std::vector<uint32_t> all(run.data().test->size());
  std::iota(all.begin(), all.end(), 0U);
  const train::EvalSums expected = trainer->evaluate_all(*run.data().test, all, 64);
  EXPECT_NEAR(run.last().width_accuracy.at(0.25),
              static_cast<double>(expected.correct) / static_cast<double>(expected.count), 0.011);
}

// Where nobody of the round holds the whole model, somebody else computes its statistics; where
// nobody may, the round says so.
TEST(Submodels, StaticStatisticsAreNotLeftAsTheyWere) {
  const std::string devices = R"(devices=[{name="a",share=1,keep=1},{name="b",share=11,keep=0.5}])";
  const Assignments base =
      joined(kImages, {"model.name=resnet8", "submodel.name=ordered", devices,
                       "submodel.static_batch_norm=true", "strategy.clients_per_round=1"});
  const auto means = [](TestRun& run) {
    std::vector<float> values;
    const ParameterSet& global = run.loop().global();
    for (const ParameterInfo& tensor : global.layout().tensors()) {
      if (tensor.role != Role::kStatistic) continue;
      const auto mine = global.values(tensor);
      values.insert(values.end(), mine.begin(), mine.end());
    }
    return values;
  };
  TestRun run("fedavg", 1, base);
  const uint64_t whole = run.loop().devices().clients_of("a").front();
  int asked = 0;
  for (int round = 0; round < 3; ++round) {
    const auto before = means(run);
    const auto record = run.step();
    EXPECT_TRUE(record.notes.empty());
    asked += record.client_ids.front() != whole;
    EXPECT_NE(means(run), before);
  }
  EXPECT_GT(asked, 0);
  TestRun nobody("fedavg", 1, joined(base, {"strategy.device=b"}));
  const auto before = means(nobody);
  const auto record = nobody.step();
  EXPECT_EQ(means(nobody), before);
  ASSERT_EQ(record.notes.size(), 1U);
  EXPECT_NE(record.notes[0].find("static_batch_norm"), std::string::npos);
}

// The other units feed nothing until they are trained, so the whole net is the small one: the same
// predictions in every evaluation. Then they learn.
TEST(Growing, TheWholeNetIsTheSmallOneUntilItGrows) {
  for (const std::string model : {"mlp", "cnn", "all-cnn", "resnet8"}) {
    Assignments assignments =
        joined(kImages, {"submodel.name=ordered", "submodel.keep=0.5", "submodel.whole_from=3",
                         "submodel.eval_widths=[0.5]", "submodel.grow=true", "train.lr=0.05",
                         "model.name=" + model, "rounds=4"});
    if (model == "all-cnn") assignments.push_back("model.width=0.1");
    const bool plain = model == "mlp" || model == "cnn";
    TestRun run("fedavg", 2, assignments);
    const auto inputs_from_others = [&] {
      double sum = 0;
      const ParameterSet& global = run.loop().global();
      const auto last = global.layout().tensors().end() - 2;  // the output layer's weights
      const auto values = global.values(*last);
      const auto row = static_cast<size_t>(last->size / last->shape[0]);
      for (size_t i = 0; i < values.size(); ++i)
        if (i % row >= row / 2) sum += std::abs(static_cast<double>(values[i]));
      return sum;
    };
    for (uint32_t round = 1; round <= 4; ++round) {
      const auto record = run.step();
      ASSERT_TRUE(record.failures.empty());
      if (round < 3) {
        EXPECT_EQ(record.width_accuracy.at(0.5), *record.accuracy) << model << round;
        if (plain) {
          EXPECT_EQ(inputs_from_others(), 0) << model << round;
        }
      } else if (plain) {
        EXPECT_GT(inputs_from_others(), 0) << model << round;
      }
    }
  }
}

}  // namespace
}  // namespace espalier::sim

#include "espalier/round/submodel_plan.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/strategy/round_sums.h"

namespace espalier::round {
namespace {

// Two hidden layers of 8 and 6 units between 4 inputs and 3 outputs.
std::shared_ptr<const ParameterLayout> layout() {
  return std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{
          {.name = "fc1.weight", .shape = {8, 4}, .units = {{.axis = 0, .group = 0}}},
          {.name = "fc2.weight",
           .shape = {6, 8},
           .units = {{.axis = 0, .group = 1}, {.axis = 1, .group = 0}}},
          {.name = "fc3.weight", .shape = {3, 6}, .units = {{.axis = 1, .group = 1}}}},
      std::vector<UnitGroup>{{"fc1", 8}, {"fc2", 6}});
}

const Key kRun(1);

ParameterSet weights() {
  ParameterSet model(layout());
  Stream stream{Key(3)};
  for (float& value : model.values()) value = static_cast<float>(stream.normal());
  return model;
}
const ParameterSet kModel = weights();

SubmodelOptions named(const std::string& name) {
  SubmodelOptions options;
  options.name = name;
  return options;
}

TEST(SubmodelPlan, ClientsOfFederatedDropoutDifferAndASharedOneIsShared) {
  SubmodelPlan own(named("federated-dropout"), layout(), kRun);
  const auto a = own.choose(1, 0, 0.5, kModel), b = own.choose(1, 1, 0.5, kModel);
  EXPECT_NE(a->kept(), b->kept());
  EXPECT_EQ(own.choose(1, 0, 0.5, kModel)->kept(), a->kept());
  EXPECT_NE(own.choose(2, 0, 0.5, kModel)->kept(), a->kept());
  EXPECT_EQ(a->units(), (std::vector<int64_t>{4, 3}));

  SubmodelOptions options = named("federated-dropout");
  options.shared = true;
  SubmodelPlan shared(options, layout(), kRun);
  EXPECT_EQ(shared.choose(1, 0, 0.5, kModel), shared.choose(1, 1, 0.5, kModel));
}

TEST(SubmodelPlan, ChoicesStayForSoManyRounds) {
  SubmodelOptions options = named("federated-dropout");
  options.stay_rounds = 3;
  SubmodelPlan three(options, layout(), kRun), each(named("federated-dropout"), layout(), kRun);
  const auto kept = [](SubmodelPlan& plan, uint32_t round, uint64_t client) {
    return plan.choose(round, client, 0.5, kModel)->kept();
  };
  EXPECT_EQ(kept(three, 1, 0), kept(three, 3, 0));
  EXPECT_NE(kept(three, 3, 0), kept(three, 4, 0));
  EXPECT_EQ(kept(three, 4, 0), kept(three, 6, 0));
  EXPECT_NE(kept(three, 4, 0), kept(three, 4, 1));
  EXPECT_EQ(kept(three, 4, 1), kept(each, 2, 1));  // the second turn is the second choice
  options.stay_rounds = 0;
  SubmodelPlan life(options, layout(), kRun);
  EXPECT_EQ(kept(life, 1, 2), kept(life, 1000, 2));
  EXPECT_NE(kept(life, 1, 2), kept(life, 1, 3));

  SubmodelOptions rolling = named("rolling");
  rolling.stay_rounds = 2;
  SubmodelPlan slow(rolling, layout(), kRun), fast(named("rolling"), layout(), kRun);
  EXPECT_EQ(kept(slow, 1, 0), kept(slow, 2, 0));
  EXPECT_EQ(kept(slow, 3, 0), kept(fast, 2, 0));
}

TEST(SubmodelPlan, WholeRoundsTrainEverything) {
  SubmodelOptions options = named("federated-dropout");
  options.whole_until = 2;
  options.whole_from = 9;
  const SubmodelPlan plan(options, layout(), kRun);
  const DeviceTable devices({}, 4, Key(2));
  std::vector<double> keeps;
  for (const uint32_t round : {1, 2, 3, 8, 9, 10}) keeps.push_back(plan.keep(devices, 3, round));
  EXPECT_EQ(keeps, (std::vector<double>{1, 1, 0.75, 0.75, 1, 1}));
  options.whole_from = 4;
  EXPECT_NO_THROW(SubmodelPlan(options, layout(), kRun)) << "round 3";
  options.whole_from = 3;
  EXPECT_THROW(SubmodelPlan(options, layout(), kRun), Error);
}

TEST(SubmodelPlan, NamedLayersStayWholeAtAllWidths) {
  SubmodelOptions options = named("federated-dropout");
  options.whole_layers = {"fc1"};
  SubmodelPlan plan(options, layout(), kRun);
  EXPECT_EQ(plan.units(0.5), (std::vector<int64_t>{8, 3}));
  EXPECT_EQ(plan.choose(1, 0, 0.5, kModel)->units(), plan.units(0.5));
  EXPECT_EQ(plan.at_width(0.5)->units(), plan.units(0.5));
  options.whole_layers = {"fc7"};
  EXPECT_THROW(SubmodelPlan(options, layout(), kRun), Error);
}

// A unit of weight 0 in a group of two live ones is never among the kept two thirds.
TEST(SubmodelPlan, ImportanceLooksAtTheRoundsWeights) {
  SubmodelPlan plan(named("importance"), layout(), kRun);
  ParameterSet dead = kModel;
  for (const size_t unit : {1, 4}) {
    for (size_t i = 0; i < 4; ++i) dead.values()[unit * 4 + i] = 0;
  }
  const std::vector<uint32_t> alive = {0, 2, 3, 5, 6, 7};
  for (const uint64_t client : {0, 1, 2})
    EXPECT_EQ(plan.choose(1, client, 0.75, dead)->kept()[0], alive);
  // Scores are those of the round: other weights in the next.
  EXPECT_NE(plan.choose(2, 0, 0.75, kModel)->kept()[0], alive);
}

TEST(SubmodelPlan, KeepingEverythingIsNoSubmodel) {
  for (const char* name : {"federated-dropout", "ordered", "rolling", "importance"}) {
    SubmodelPlan plan(named(name), layout(), kRun);
    EXPECT_EQ(plan.choose(3, 2, 1.0, kModel), nullptr) << name;
  }
  SubmodelPlan none({}, layout(), kRun);
  EXPECT_FALSE(none.active());
  EXPECT_EQ(none.choose(1, 0, 0.5, kModel), nullptr);
}

TEST(SubmodelPlan, UnitsStayWhenNothingMovesThem) {
  DeviceOptions whole, part, same;
  whole.keep = 1;
  part.keep = 0.5;
  const SubmodelOptions rolling = named("rolling"), ordered = named("ordered");
  EXPECT_TRUE(all_whole({}, {}));
  EXPECT_TRUE(all_whole({}, {whole}));
  EXPECT_TRUE(all_whole(rolling, {whole}));
  EXPECT_FALSE(all_whole(rolling, {whole, part}));
  EXPECT_FALSE(all_whole(rolling, {same}));
  EXPECT_FALSE(units_stay(rolling, {whole, part}));
  EXPECT_TRUE(units_stay(rolling, {whole}));
  EXPECT_TRUE(units_stay(ordered, {whole, part}));
  SubmodelOptions grown = ordered, life = named("federated-dropout");
  grown.whole_from = 5;
  life.stay_rounds = 0;
  EXPECT_FALSE(units_stay(grown, {}));
  EXPECT_TRUE(units_stay(life, {}));
  EXPECT_FALSE(units_common(life, {}));
  life.shared = true;
  EXPECT_TRUE(units_common(life, {}));
  EXPECT_TRUE(units_common(ordered, {whole, part}));
  EXPECT_EQ(keep_of(rolling, part), 0.5);
  EXPECT_EQ(keep_of(rolling, same), 0.75);
}

// Two clients of weight 1 hold two of three units' worth of w; the third value is one client's
// alone.
TEST(SubmodelPlan, TheMethodDecidesTheAggregationUnlessItIsNamed) {
  const auto counts = [](const SubmodelOptions& options) {
    const auto model = std::make_shared<const ParameterLayout>(
        std::vector<ParameterInfo>{{.name = "w", .shape = {2}, .units = {{.axis = 0, .group = 0}}}},
        std::vector<UnitGroup>{{"w", 2}});
    strategy::RoundSums sums(2, 1, {SubmodelPlan(options, layout(), kRun).aggregation()});
    wire::Update part, whole;
    part.submodel =
        std::make_shared<submodel::Submodel>(model, std::vector<std::vector<uint32_t>>{{0}});
    part.payloads.push_back({"delta", std::make_shared<ParameterSet>(part.submodel->layout(),
                                                                     AlignedVector<float>{2})});
    whole.payloads.push_back(
        {"delta", std::make_shared<ParameterSet>(model, AlignedVector<float>{2, 2})});
    sums.add(0, part);
    sums.add(1, whole);
    const ParameterSet mean = sums.mean("delta", model);
    EXPECT_EQ(mean.values()[0], 2);
    return mean.values()[1] == 2;  // divided by the one client that has it, not by both
  };
  EXPECT_FALSE(counts(named("federated-dropout")));
  EXPECT_TRUE(counts(named("ordered")));
  EXPECT_TRUE(counts(named("rolling")));
  SubmodelOptions options = named("ordered");
  options.aggregation = "zero";
  EXPECT_FALSE(counts(options));
}

TEST(SubmodelPlan, WidthsAreThoseBelowTheClientsOwnAndItsOwn) {
  SubmodelOptions options = named("ordered");
  options.widths = {0.25, 0.5, 1};
  const SubmodelPlan plan(options, layout(), kRun);
  const train::SubmodelTraining training = plan.training(0.5);
  EXPECT_EQ(training.widths, (std::vector<std::vector<int64_t>>{{2, 2}, {4, 3}}));
  EXPECT_TRUE(plan.training(0.25).widths.empty());
  SubmodelOptions scaled = named("ordered");
  scaled.scaler = true;
  EXPECT_EQ(SubmodelPlan(scaled, layout(), kRun).training(0.5).scale, 2);
}

TEST(SubmodelPlan, OptionsThatDoNotFitAreRefused) {
  EXPECT_THROW(SubmodelPlan(named("orderd"), layout(), kRun), Error);
  SubmodelOptions shared = named("ordered");
  shared.shared = true;
  EXPECT_THROW(SubmodelPlan(shared, layout(), kRun), Error);
  SubmodelOptions widths = named("rolling");
  widths.widths = {0.5};
  EXPECT_THROW(SubmodelPlan(widths, layout(), kRun), Error);
  SubmodelOptions distillation = named("ordered");
  distillation.self_distillation = 0.5;
  EXPECT_THROW(SubmodelPlan(distillation, layout(), kRun), Error);
  SubmodelOptions orphan;
  orphan.scaler = true;
  EXPECT_THROW(SubmodelPlan(orphan, layout(), kRun), Error);
  SubmodelOptions ignored;
  ignored.keep = 0.5;
  EXPECT_THROW(SubmodelPlan(ignored, layout(), kRun), Error);
  SubmodelOptions stays = named("ordered"), scored = named("importance"), grows = named("ordered");
  stays.stay_rounds = scored.stay_rounds = 2;
  EXPECT_THROW(SubmodelPlan(stays, layout(), kRun), Error);
  EXPECT_THROW(SubmodelPlan(scored, layout(), kRun), Error);
  grows.whole_from = 3;
  DeviceOptions half;
  half.keep = 0.5;
  EXPECT_THROW(SubmodelPlan(grows, layout(), kRun, {half}), Error);
  SubmodelOptions begins = named("ordered");
  begins.grow = true;
  EXPECT_THROW(SubmodelPlan(begins, layout(), kRun), Error);
  begins.whole_from = 3;
  EXPECT_NO_THROW(SubmodelPlan(begins, layout(), kRun));
  begins.name = "rolling";
  EXPECT_THROW(SubmodelPlan(begins, layout(), kRun), Error);
  begins = grows;
  begins.grow = true;
  EXPECT_NO_THROW(SubmodelPlan(begins, layout(), kRun));
  begins.scaler = true;
  EXPECT_THROW(SubmodelPlan(begins, layout(), kRun), Error);
  grows.widths = {0.5};
  EXPECT_THROW(SubmodelPlan(grows, layout(), kRun), Error);
  SubmodelOptions both = named("ordered");
  both.widths = {0.5};
  both.scaler = true;
  EXPECT_THROW(SubmodelPlan(both, layout(), kRun), Error);
  SubmodelOptions statistics = named("ordered");
  statistics.static_batch_norm = true;
  EXPECT_THROW(SubmodelPlan(statistics, layout(), kRun), Error);
  const auto plain = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{.name = "w", .shape = {4}}});
  EXPECT_THROW(SubmodelPlan(named("ordered"), plain, kRun), Error);
}

}  // namespace
}  // namespace espalier::round

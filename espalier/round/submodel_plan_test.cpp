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

strategy::RoundInfo round_info(uint32_t round) { return {round, 10, Key(1).child(round), {}}; }

SubmodelOptions named(const std::string& name) {
  SubmodelOptions options;
  options.name = name;
  return options;
}

TEST(SubmodelPlan, ClientsOfFederatedDropoutDifferAndASharedOneIsShared) {
  SubmodelPlan own(named("federated-dropout"), layout());
  const auto a = own.choose(round_info(1), 0, 0.5), b = own.choose(round_info(1), 1, 0.5);
  EXPECT_NE(a->kept(), b->kept());
  EXPECT_EQ(own.choose(round_info(1), 0, 0.5)->kept(), a->kept());
  EXPECT_NE(own.choose(round_info(2), 0, 0.5)->kept(), a->kept());
  EXPECT_EQ(a->units(), (std::vector<int64_t>{4, 3}));

  SubmodelOptions options = named("federated-dropout");
  options.shared = true;
  SubmodelPlan shared(options, layout());
  EXPECT_EQ(shared.choose(round_info(1), 0, 0.5), shared.choose(round_info(1), 1, 0.5));
}

TEST(SubmodelPlan, KeepingEverythingIsNoSubmodel) {
  for (const char* name : {"federated-dropout", "ordered", "rolling"}) {
    SubmodelPlan plan(named(name), layout());
    EXPECT_EQ(plan.choose(round_info(3), 2, 1.0), nullptr) << name;
  }
  SubmodelPlan none({}, layout());
  EXPECT_FALSE(none.active());
  EXPECT_EQ(none.choose(round_info(1), 0, 0.5), nullptr);
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
    strategy::RoundSums sums(2, 1, {SubmodelPlan(options, layout()).aggregation()});
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
  const SubmodelPlan plan(options, layout());
  const train::SubmodelTraining training = plan.training(0.5);
  EXPECT_EQ(training.widths, (std::vector<std::vector<int64_t>>{{2, 2}, {4, 3}}));
  EXPECT_TRUE(plan.training(0.25).widths.empty());
  SubmodelOptions scaled = named("ordered");
  scaled.scaler = true;
  EXPECT_EQ(SubmodelPlan(scaled, layout()).training(0.5).scale, 2);
}

TEST(SubmodelPlan, OptionsThatDoNotFitAreRefused) {
  EXPECT_THROW(SubmodelPlan(named("orderd"), layout()), Error);
  SubmodelOptions shared = named("ordered");
  shared.shared = true;
  EXPECT_THROW(SubmodelPlan(shared, layout()), Error);
  SubmodelOptions widths = named("rolling");
  widths.widths = {0.5};
  EXPECT_THROW(SubmodelPlan(widths, layout()), Error);
  SubmodelOptions distillation = named("ordered");
  distillation.self_distillation = 0.5;
  EXPECT_THROW(SubmodelPlan(distillation, layout()), Error);
  SubmodelOptions orphan;
  orphan.scaler = true;
  EXPECT_THROW(SubmodelPlan(orphan, layout()), Error);
  SubmodelOptions ignored;
  ignored.keep = 0.5;
  EXPECT_THROW(SubmodelPlan(ignored, layout()), Error);
  SubmodelOptions both = named("ordered");
  both.widths = {0.5};
  both.scaler = true;
  EXPECT_THROW(SubmodelPlan(both, layout()), Error);
  SubmodelOptions statistics = named("ordered");
  statistics.static_batch_norm = true;
  EXPECT_THROW(SubmodelPlan(statistics, layout()), Error);
  const auto plain = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{.name = "w", .shape = {4}}});
  EXPECT_THROW(SubmodelPlan(named("ordered"), plain), Error);
}

}  // namespace
}  // namespace espalier::round

#include "espalier/round/refusals.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"

namespace espalier::round {
namespace {

struct Case {
  const char* name;
  const char* said;  // a part of the message; empty: nothing is refused
  strategy::Traits traits = {};
  std::string feedback = "auto";
  bool delta = false;
  std::string submodel = "none";
  std::vector<DeviceOptions> devices = {};
  bool lossless = false;  // both links
  bool unseen = false;    // evaluate = "none", and a target
};

std::string refusal(const Case& c) {
  SelectionOptions selection;
  selection.name = "mine";
  RunOptions run;
  run.error_feedback = c.feedback;
  run.delta_downlink = c.delta;
  if (c.unseen) {
    run.evaluate = "none";
    run.target_accuracy = 0.5;
  }
  SubmodelOptions submodel;
  submodel.name = c.submodel;
  submodel.keep = 0.5;
  const auto uplink = codec::make_codec(
      c.lossless ? Json::array() : Json::parse(R"([{"stage":"topk","keep":0.1}])"), "test");
  try {
    refuse_combinations({c.traits, selection, run, submodel, c.devices, *uplink, *uplink});
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

DeviceOptions device(const char* name, double keep) {
  DeviceOptions out;
  out.name = name;
  out.keep = keep;
  return out;
}

TEST(Refusals, EveryRowAndItsNeighbour) {
  const strategy::Traits plain, state{.client_state = true}, masks{.masks = true},
      advised{.masks = true, .masks_advice = "set strategy.x = false"},
      increments{.increments = true}, features{.weights_travel = false};
  const std::vector<Case> cases = {
      {"plain", "", plain},
      {"plain with ef21", "", plain, "ef21"},
      {"plain with differences", "", plain, "auto", true},
      {"plain with sub-models", "", plain, "auto", false, "federated-dropout"},
      {"features with residuals", "do not repeat", features, "residual"},
      {"features without", "", features, "none"},
      {"masks with estimates", "does not go with masks", masks, "ef21"},
      {"masks with residuals", "", masks, "residual"},
      {"increments with estimates", "what the server adds up", increments, "ef21"},
      {"increments with residuals", "", increments, "residual"},
      {"differences of all", "no effect", plain, "none", true, "none", {}, true},
      {"a target nobody sees", "target_accuracy", plain, "none", false, "none", {}, true, true},
      {"residuals of nothing", "loses nothing", plain, "residual", false, "none", {}, true},
      {"estimates of all", "", plain, "ef21", false, "none", {}, true},
      {"residuals of other units", "same units", plain, "residual", false, "federated-dropout"},
      {"residuals of the first units", "", plain, "residual", false, "ordered"},
      {"estimates of parts", "does not go with [submodel]", plain, "ef21", false, "ordered"},
      {"differences under masks", "strategy 'mine': its masks", masks, "auto", true},
      {"with advice", ", or set strategy.x = false", advised, "auto", true},
      {"sub-models under masks", "decides itself what travels", masks, "auto", false, "ordered"},
      {"differences of features", "sends them once", features, "none", true},
      {"sub-models of features", "not averaged", features, "none", false, "ordered"},
      {"differences of parts", "hold different parts", plain, "auto", true, "ordered"},
      {"state with other units", "keeps state", state, "none", false, "rolling"},
      {"state with the first units", "", state, "none", false, "ordered"},
      {"state with two ratios",
       "keeps state",
       state,
       "none",
       false,
       "ordered",
       {device("a", 1), device("b", 0.5)}},
      {"state with one ratio",
       "",
       state,
       "none",
       false,
       "ordered",
       {device("a", 0.5), device("b", 0.5)}},
  };
  for (const Case& c : cases) {
    const std::string said = refusal(c);
    if (*c.said == '\0') {
      EXPECT_EQ(said, "") << c.name;
    } else {
      EXPECT_NE(said.find(c.said), std::string::npos) << c.name << ": " << said;
    }
  }
}

TEST(Refusals, AutoIsResidualWhereWhatIsLostCanBeMadeUpFor) {
  const auto biased = codec::make_codec(Json::parse(R"([{"stage":"topk","keep":0.1}])"), "test");
  const auto unbiased = codec::make_codec(
      Json::parse(R"([{"stage":"hadamard"},{"stage":"quantize","bits":4}])"), "test");
  const SelectionOptions selection;
  const std::vector<DeviceOptions> devices;
  const auto choose = [&](const strategy::Traits& traits, const char* option, const char* submodels,
                          const codec::Codec& uplink) {
    RunOptions run;
    run.error_feedback = option;
    SubmodelOptions submodel;
    submodel.name = submodels;
    return choose_feedback({traits, selection, run, submodel, devices, uplink, uplink});
  };
  const strategy::Traits plain, features{.weights_travel = false};
  EXPECT_EQ(choose(plain, "auto", "none", *biased), Feedback::kResidual);
  EXPECT_EQ(choose(plain, "auto", "ordered", *biased), Feedback::kResidual);
  EXPECT_EQ(choose(plain, "auto", "rolling", *biased), Feedback::kNone);
  EXPECT_EQ(choose(plain, "auto", "none", *unbiased), Feedback::kNone);
  EXPECT_EQ(choose(plain, "none", "none", *biased), Feedback::kNone);
  EXPECT_EQ(choose(plain, "ef21", "none", *unbiased), Feedback::kEf21);
  EXPECT_EQ(choose(features, "auto", "none", *biased), Feedback::kNone);
}

// By the tensors that the run has: a pipeline for some of them counts as the others do, and one for
// none of them not at all.
TEST(Refusals, FeedbackNeedsACodecThatKeepsMoreThanItLosesOfEveryTensor) {
  const ParameterLayout layout({{"conv1.weight", {8, 8, 3, 3}, Role::kWeight},
                                {"fc1.weight", {64, 128}, Role::kWeight},
                                {"fc1.bias", {64}, Role::kBias},
                                {"fc2.weight", {10, 64}, Role::kWeight}});
  const auto refused = [&](const char* stages) -> std::string {
    try {
      require_contraction(*codec::make_codec(Json::parse(stages), "test"), layout, "it");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(refused(R"([{"stage":"subsample","keep":0.01}])").find("fc1.weight"),
            std::string::npos);
  EXPECT_EQ(refused(R"([{"stage":"topk","keep":0.5}])"), "");
  EXPECT_EQ(refused("[]"), "");
  // Mild for most, harsh for one.
  const std::string mild = R"({"stage":"hadamard"},{"stage":"trellis","bits":4})";
  EXPECT_EQ(refused(("[" + mild + "]").c_str()), "");
  EXPECT_NE(refused(("[" + mild + R"(,{"stage":"subsample","keep":0.1,"for":"conv*"}])").c_str())
                .find("conv1.weight"),
            std::string::npos);
  // Harsh for most, mild for the first and last.
  const std::string harsh = R"({"stage":"hadamard"},{"stage":"quantize","bits":1})";
  EXPECT_NE(
      refused(("[" + harsh + R"(,{"stage":"quantize","bits":8,"for":["first","last"]}])").c_str())
          .find("fc1.weight"),
      std::string::npos);
  EXPECT_EQ(refused(("[" + harsh + R"(,{"stage":"quantize","bits":8,"for":["weight"]}])").c_str()),
            "");
}

}  // namespace
}  // namespace espalier::round

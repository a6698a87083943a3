#include "espalier/round/refusals.h"

#include "espalier/base/error.h"
#include "espalier/params/parameter_set.h"

namespace espalier::round {
namespace {

bool parts(const Choices& c) { return !all_whole(c.submodel, c.devices); }
bool submodels(const Choices& c) { return c.submodel.name != "none"; }
bool asks(const Choices& c, const char* feedback) { return c.run.error_feedback == feedback; }

std::string of_strategy(const Choices& c) { return "strategy '" + c.selection.name + "'"; }
std::string masks_advice(const Choices& c) {
  return c.traits.masks_advice.empty() ? "" : ", or " + c.traits.masks_advice;
}

// With several ratios, few clients hold the later units, and state that is averaged over the
// population (SCAFFOLD's c) would count the others as zeros.
bool one_ratio(const Choices& c) {
  double keep = 0;
  for (const DeviceOptions& device : c.devices) {
    const double mine = keep_of(c.submodel, device);
    if (keep != 0 && mine != keep) return false;
    keep = mine;
  }
  return true;
}

// A row per combination: when it is one, and why it is refused.
struct Refusal {
  bool (*when)(const Choices& c);
  std::string (*why)(const Choices& c);
};

const Refusal kRefusals[] = {
    {[](const Choices& c) {
       return !c.traits.weights_travel && (asks(c, "residual") || asks(c, "ef21"));
     },
     [](const Choices& c) {
       return concat("error_feedback = \"", c.run.error_feedback,
                     "\" is for changes of weights; this strategy sends feature maps, which do not "
                     "repeat: set it to \"none\"");
     }},
    {[](const Choices& c) { return asks(c, "residual") && c.uplink.lossless(); },
     [](const Choices&) {
       return std::string(
           "error_feedback = \"residual\" has no effect: the uplink loses nothing; leave it out, "
           "or "
           "give [[uplink]] a lossy stage");
     }},
    {[](const Choices& c) { return c.run.evaluate == "clients" && !c.traits.weights_travel; },
     [](const Choices& c) {
       return concat("evaluate = \"clients\" does not go with ", of_strategy(c),
                     ", which evaluates by itself; leave it out");
     }},
    {[](const Choices& c) {
       return c.run.evaluate == "clients" && !c.submodel.eval_widths.empty();
     },
     [](const Choices&) {
       return std::string(
           "evaluate = \"clients\" does not go with submodel.eval_widths, which the server "
           "evaluates; "
           "leave one of the two out");
     }},
    {[](const Choices& c) { return c.run.evaluate != "clients" && c.run.eval_clients > 0; },
     [](const Choices&) {
       return std::string("eval_clients is for evaluate = \"clients\"; leave one of the two out");
     }},
    {[](const Choices& c) { return c.run.evaluate == "none" && c.run.target_accuracy > 0; },
     [](const Choices&) {
       return std::string(
           "target_accuracy needs an evaluation, and evaluate = \"none\" makes none; leave one of "
           "the two out");
     }},
    {[](const Choices& c) { return c.traits.masks && asks(c, "ef21"); },
     [](const Choices&) {
       return std::string("error_feedback = \"ef21\" does not go with masks; set it to \"none\"");
     }},
    {[](const Choices& c) { return c.traits.increments && asks(c, "ef21"); },
     [](const Choices& c) {
       return concat("error_feedback = \"ef21\" does not go with ", of_strategy(c),
                     ": beside changes of weights its clients send what the server adds up, and "
                     "estimates of that would be added up again in every round; set it to "
                     "\"auto\"");
     }},
    {[](const Choices& c) { return asks(c, "residual") && !units_stay(c.submodel, c.devices); },
     [](const Choices& c) {
       return concat(
           "error_feedback = \"residual\" needs clients that train the same units in every "
           "round; with submodel.name = \"",
           c.submodel.name,
           "\" use an unbiased uplink and error_feedback = \"none\", or let choices "
           "stay: submodel.stay_rounds = 0");
     }},
    {[](const Choices& c) { return asks(c, "ef21") && parts(c); },
     [](const Choices&) {
       return std::string(
           "error_feedback = \"ef21\" does not go with [submodel]; set it to \"none\"");
     }},
    {[](const Choices& c) { return c.traits.masks && c.run.delta_downlink; },
     [](const Choices& c) {
       return concat("delta_downlink does not go with ", of_strategy(c),
                     ": its masks change what a model consists of", masks_advice(c));
     }},
    {[](const Choices& c) { return c.traits.masks && submodels(c); },
     [](const Choices& c) {
       return concat("[submodel] does not go with ", of_strategy(c),
                     ", which decides itself what travels; remove one of the two", masks_advice(c));
     }},
    {[](const Choices& c) { return !c.traits.weights_travel && c.run.delta_downlink; },
     [](const Choices& c) {
       return concat("delta_downlink is for weights that travel every round; ", of_strategy(c),
                     " sends them once");
     }},
    {[](const Choices& c) { return !c.traits.weights_travel && submodels(c); },
     [](const Choices& c) {
       return concat("[submodel] does not go with ", of_strategy(c),
                     ": its clients' nets are not averaged");
     }},
    {[](const Choices& c) { return parts(c) && c.run.delta_downlink; },
     [](const Choices&) {
       return std::string(
           "delta_downlink does not go with [submodel]: clients hold different parts");
     }},
    {[](const Choices& c) {
       return parts(c) && c.traits.client_state &&
              (!units_common(c.submodel, c.devices) || !one_ratio(c));
     },
     [](const Choices& c) {
       return concat(of_strategy(c),
                     " keeps state with its clients, which must then all train the same units in "
                     "every round; set submodel.name = \"ordered\" with one keep for all, without "
                     "whole rounds");
     }},
    {[](const Choices& c) { return c.run.delta_downlink && c.downlink.lossless(); },
     [](const Choices&) {
       return std::string(
           "delta_downlink has no effect: the downlink loses nothing; leave it out, or give "
           "[[downlink]] a lossy stage");
     }},
};

}  // namespace

void refuse_combinations(const Choices& choices) {
  for (const Refusal& row : kRefusals) {
    if (row.when(choices)) fail("config", row.why(choices));
  }
}

Feedback choose_feedback(const Choices& choices) {
  const std::string& option = choices.run.error_feedback;
  if (!choices.traits.weights_travel) return Feedback::kNone;
  if (option == "residual") return Feedback::kResidual;
  if (option == "ef21") return Feedback::kEf21;
  const bool stay = units_stay(choices.submodel, choices.devices);
  if (option == "auto" && stay && !choices.uplink.unbiased() && !choices.uplink.lossless())
    return Feedback::kResidual;
  return Feedback::kNone;
}

std::vector<std::string> update_stages(Feedback feedback) {
  switch (feedback) {
    case Feedback::kResidual:
      return {"residual"};
    case Feedback::kEf21:
      return {"ef21"};
    case Feedback::kNone:
      break;
  }
  return {};
}

void require_contraction(const codec::Codec& codec, const ParameterLayout& layout,
                         std::string_view what) {
  for (const codec::PipelineLoss& loss : codec.losses(layout)) {
    if (loss.relative_error < 1) continue;
    fail("config", what, " needs a codec that loses less than it keeps; ", loss.stages,
         ", which codes ", loss.tensor, ", has a relative error of ", loss.relative_error,
         "; keep more, use more bits, or do without (error_feedback = \"none\", delta_downlink = "
         "false)");
  }
}

}  // namespace espalier::round

#include "espalier/client/update_stages.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/codec/feedback.h"

namespace espalier::client {
namespace {

std::shared_ptr<const ParameterLayout> layout() {
  static const auto shared = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{"w", {64, 64}, Role::kWeight}, {"mean", {2}, Role::kStatistic}});
  return shared;
}

wire::Payload payload(float first) {
  auto values = std::make_shared<ParameterSet>(layout());
  for (size_t i = 0; i < values->size(); ++i)
    values->values()[i] = first + 0.25f * static_cast<float>(i * i);
  return {"delta", std::move(values), 1};
}

// A quarter of the weights.
std::unique_ptr<codec::Codec> topk() {
  return codec::make_codec(Json::parse(R"([{"stage":"topk","keep":0.25}])"), "test");
}

Bytes encode(const UpdateStages& stages, const ClientState* previous, const wire::Payload& what,
             ClientState& next, const prune::Mask* mask = nullptr) {
  Bytes out;
  encode_through(stages, *topk(), previous, what, mask, Key(3), next, out);
  return out;
}

TEST(UpdateStages, WithoutStagesItIsTheCodecsMessage) {
  ClientState next;
  const Bytes found = encode({}, nullptr, payload(1), next);
  Bytes plain;
  topk()->encode(*payload(1).values, Key(3), plain);
  EXPECT_EQ(found, plain);
  EXPECT_TRUE(next.empty());
}

TEST(UpdateStages, ResidualIsThatOfTheCodecsFeedback) {
  codec::ResidualFeedback reference(layout());
  ClientState state;
  for (const float first : {1.0f, -2.0f, 0.5f}) {
    ClientState next;
    const Bytes found = encode(find_update_stages({"residual"}), &state, payload(first), next);
    Bytes expected;
    reference.encode(*topk(), *payload(first).values, Key(3), expected);
    EXPECT_EQ(found, expected);
    EXPECT_TRUE(
        std::ranges::equal(next.sets.at("feedback.delta").values(), reference.residual().values()));
    state = std::move(next);
  }
}

TEST(UpdateStages, EstimatesAreThoseOfEf21ForWhatIsTrainedAlone) {
  codec::Ef21 reference(layout());
  ClientState next;
  const Bytes found = encode(find_update_stages({"ef21"}), nullptr, payload(1), next);
  Bytes expected;
  reference.encode(*topk(), *payload(1).values, Key(3), expected);
  EXPECT_EQ(found, expected);
  const ParameterSet& kept = next.sets.at("feedback.delta");
  EXPECT_TRUE(std::ranges::equal(kept.values("w"), reference.estimate().values("w")));
  for (const float value : kept.values("mean")) EXPECT_EQ(value, 0);
}

TEST(UpdateStages, WhatIsRememberedOfAnotherLayoutDoesNotCount) {
  ClientState state, next, fresh;
  state.sets.emplace("feedback.delta", ParameterSet(std::make_shared<const ParameterLayout>(
                                           std::vector<ParameterInfo>{{"w", {3}}})));
  EXPECT_EQ(encode(find_update_stages({"residual"}), &state, payload(1), next),
            encode(find_update_stages({"residual"}), nullptr, payload(1), fresh));
}

// Under a mask only the kept values travel and are remembered; the others' memory is zero.
TEST(UpdateStages, ResidualsUnderAMask) {
  std::vector<uint64_t> words(65, ~uint64_t{0});
  words[0] = ~uint64_t{0b110000};
  words[64] = 0b11;
  const prune::Mask mask(layout(), words);
  wire::Payload masked = payload(1);
  auto values = std::make_shared<ParameterSet>(*masked.values);
  mask.apply(values->values());
  masked.values = values;
  ClientState next;
  encode(find_update_stages({"residual"}), nullptr, masked, next, &mask);
  const ParameterSet& kept = next.sets.at("feedback.delta");
  EXPECT_TRUE(kept.layout() == *layout());
  EXPECT_EQ(kept.values()[4], 0);
  EXPECT_EQ(kept.values()[5], 0);
  EXPECT_NE(kept.values()[0], 0);
  EXPECT_THROW(encode(find_update_stages({"ef21"}), nullptr, masked, next, &mask), Error);
}

TEST(UpdateStages, UnknownNamesAreRefused) {
  EXPECT_THROW(find_update_stages({"residul"}), Error);
  EXPECT_THROW(find_update_stages({"residual", "ef21"}), Error);  // one memory per payload
}

}  // namespace
}  // namespace espalier::client

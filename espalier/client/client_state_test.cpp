#include "espalier/client/client_state.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"

namespace espalier::client {
namespace {

TEST(ClientState, RoundTripKeepsOrderRolesAndValues) {
  ClientState state;
  // Names out of alphabetical order and an empty tensor: the order of the layout must survive.
  ParameterSet set(std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{
      {"z", {2}, Role::kWeight}, {"e", {0}, Role::kBias}, {"a", {3}, Role::kStatistic}}));
  for (size_t i = 0; i < set.size(); ++i) set.values()[i] = static_cast<float>(i) - 2.25f;
  state.sets.emplace("control", set);
  state.sets.emplace(
      "residual",
      ParameterSet(std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"w", {1}}})));
  const ClientState read = decode_state(encode_state(state), "test");
  ASSERT_EQ(read.sets.size(), 2u);
  const ParameterSet& control = read.sets.at("control");
  EXPECT_TRUE(std::ranges::equal(control.values(), set.values()));
  EXPECT_EQ(control.layout().find("a")->role, Role::kStatistic);
  EXPECT_EQ(control.layout().find("a")->offset, 2);
}

TEST(ClientState, DamageIsAnError) {
  ClientState state;
  state.sets.emplace(
      "c", ParameterSet(std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"w", {2}}})));
  const Bytes bytes = encode_state(state);
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_THROW(decode_state(std::span(bytes).first(size), "test"), Error);
  for (size_t i = 0; i < bytes.size(); ++i) {
    Bytes broken = bytes;
    broken[i] ^= 1;
    EXPECT_THROW(decode_state(broken, "test"), Error) << i;
  }
}

}  // namespace
}  // namespace espalier::client

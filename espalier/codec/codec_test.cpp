#include "espalier/codec/codec.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/codec/message.h"
#include "espalier/codec/rules.h"

namespace espalier::codec {
namespace {

std::shared_ptr<const ParameterLayout> model_layout() {
  return std::make_shared<ParameterLayout>(
      std::vector<ParameterInfo>{{"conv1.weight", {32, 1, 5, 5}, Role::kWeight},
                                 {"conv1.bias", {32}, Role::kBias},
                                 {"norm.mean", {32}, Role::kStatistic},
                                 {"norm.count", {}, Role::kCounter},
                                 {"conv2.weight", {64, 32, 5, 5}, Role::kWeight},
                                 {"fc1.weight", {100, 70}, Role::kWeight},
                                 {"tiny.weight", {7, 73}, Role::kWeight},
                                 {"fc2.weight", {10, 100}, Role::kWeight}});
}

ParameterSet model_values() {
  ParameterSet x(model_layout());
  Stream stream{Key(5)};
  for (float& value : x.values()) value = static_cast<float>(0.1 * stream.normal());
  return x;
}

TEST(Codec, IdentityKeepsEveryBitAndItsFramingIsSmall) {
  const auto codec = make_codec(Json::array(), "uplink");
  const ParameterSet x = model_values();
  Bytes message = {1, 2, 3};
  codec->encode(x, Key(7), message);
  EXPECT_LT(message.size(), 3 + 4 * x.size() + 128);
  ParameterSet y(x.shared_layout());
  codec->decode(std::span(message).subspan(3), y);
  EXPECT_TRUE(std::ranges::equal(x.values(), y.values()));
  EXPECT_TRUE(codec->lossless());
  EXPECT_TRUE(codec->unbiased());
  EXPECT_EQ(codec->describe(), "identity");
}

TEST(Codec, EncodeLeavesOutAsItWasOnFailure) {
  const auto codec = make_codec(Json::array(), "uplink");
  ParameterSet x = model_values();
  x.values("fc2.weight")[3] = std::nanf("");
  Bytes message = {1, 2, 3};
  EXPECT_THROW(codec->encode(x, Key(7), message), Error);
  EXPECT_EQ(message, (Bytes{1, 2, 3}));
}

TEST(Codec, AnIndexRefusesWhatDecodeRefuses) {
  const auto codec = make_codec(Json::array(), "uplink");
  const ParameterSet x = model_values();
  Bytes message;
  codec->encode(x, Key(7), message);
  EXPECT_EQ(codec->index(message, x.shared_layout()).num_tensors(), x.layout().tensors().size());
  auto tensors = x.layout().tensors();
  tensors[0].name = "conv0.weight";
  EXPECT_THROW(codec->index(message, std::make_shared<ParameterLayout>(tensors)), Error);
  const auto other = make_codec(Json::parse(R"([{"stage": "hadamard"}])"), "uplink");
  EXPECT_THROW(other->index(message, x.shared_layout()), Error);
  for (size_t size = 0; size < message.size(); size += 97)
    EXPECT_THROW(codec->index(std::span(message).first(size), x.shared_layout()), Error) << size;
  message[message.size() / 2] ^= 1;
  EXPECT_THROW(codec->index(message, x.shared_layout()), Error);
}

TEST(Codec, AnotherLayoutIsRefused) {
  const auto codec = make_codec(Json::array(), "uplink");
  const ParameterSet x = model_values();
  Bytes message;
  codec->encode(x, Key(7), message);
  auto tensors = x.layout().tensors();
  tensors[0].name = "conv0.weight";
  ParameterSet other(std::make_shared<ParameterLayout>(tensors));
  EXPECT_THROW(codec->decode(message, other), Error);
  tensors[0].shape = {32, 25};
  ParameterSet reshaped(std::make_shared<ParameterLayout>(tensors));
  EXPECT_THROW(codec->decode(message, reshaped), Error);
}

TEST(Rules, GlobMatch) {
  EXPECT_TRUE(glob_match("conv*", "conv1.weight"));
  EXPECT_TRUE(glob_match("*.weight", "conv1.weight"));
  EXPECT_TRUE(glob_match("*o*1*t", "conv1.weight"));
  EXPECT_TRUE(glob_match("fc2.weight", "fc2.weight"));
  EXPECT_FALSE(glob_match("conv", "conv1.weight"));
  EXPECT_FALSE(glob_match("*.bias", "conv1.weight"));
  EXPECT_TRUE(glob_match("*", ""));
}

}  // namespace
}  // namespace espalier::codec

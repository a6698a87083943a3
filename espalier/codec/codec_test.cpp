#include "espalier/codec/codec.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/codec/message.h"
#include "espalier/codec/rules.h"
#include "espalier/codec/test_damage.h"

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

// As long as several pieces, and not a multiple of one.
TEST(Codec, ADifferencesMessageIsThatOfItsValues) {
  const ParameterSet after = model_values();
  ParameterSet before(after.shared_layout()), difference(after.shared_layout());
  Stream stream{Key(6)};
  for (float& value : before.values()) value = static_cast<float>(stream.normal());
  subtract(after.values(), before.values(), difference.values());
  for (const char* const stages :
       {"[]", R"([{"stage": "hadamard"}, {"stage": "quantize"}])", R"([{"stage": "cast"}])"}) {
    const auto codec = make_codec(Json::parse(stages), "uplink");
    Bytes expected = {1, 2, 3}, message = expected;
    codec->encode(difference, Key(7), expected);
    codec->encode_difference(after.layout(), after.values(), before.values(), Key(7), message);
    EXPECT_EQ(message, expected) << stages;
  }
}

TEST(Codec, PlainMessagesAreThoseOfEncodeMessage) {
  const PipelineRules rules(Json::array(), "uplink");
  const ParameterSet x = model_values();
  Bytes expected, message;
  encode_message(x.layout(), x.values(), Key(7), rules.pipelines(), rules.choose(x.layout()),
                 expected);
  make_codec(Json::array(), "uplink")->encode(x, Key(7), message);
  EXPECT_EQ(message, expected);
}

TEST(Codec, DecodingTellsTheLargestMagnitude) {
  ParameterSet x = model_values();
  x.values("conv2.weight")[5000] = -70000.5f;
  for (const char* const stages : {"[]", R"([{"stage": "cast"}])"}) {
    const auto codec = make_codec(Json::parse(stages), "uplink");
    Bytes message;
    codec->encode(x, Key(7), message);
    ParameterSet y(x.shared_layout());
    float expected = 0;
    const float largest = codec->decode(message, y);
    for (const float value : y.values()) expected = std::max(expected, std::abs(value));
    EXPECT_EQ(largest, expected) << stages;
  }
}

// Whatever is wrong with a message, and wherever: the error names it.
TEST(Codec, DamagedPlainMessagesAreRefusedWithTheReason) {
  const auto codec = make_codec(Json::array(), "uplink");
  const ParameterSet x = model_values();
  Bytes message;
  codec->encode(x, Key(7), message);
  ParameterSet y(x.shared_layout());
  const auto refused = [&](const Bytes& bytes, const std::string& why) {
    try {
      codec->decode(bytes, y);
      ADD_FAILURE() << why;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
    }
  };
  for (size_t bit = 8 * 5; bit < 8 * message.size(); bit += 4999)
    refused(with_flipped_bit(message, bit), "checksum mismatch");
  for (const size_t missing : {size_t{1}, size_t{4}, message.size() / 2})
    refused({message.begin(), message.end() - static_cast<std::ptrdiff_t>(missing)}, "checksum");
  refused({1, 2, 3}, "truncated");
  // A faulty sender: a value that is not finite under a checksum that is right.
  const float infinity = INFINITY;
  std::memcpy(message.data() + message.size() - 4 - sizeof(float), &infinity, sizeof(infinity));
  const uint32_t checksum = checksum32(std::span(message).first(message.size() - 4));
  std::memcpy(message.data() + message.size() - 4, &checksum, sizeof(checksum));
  refused(message, "not finite (fc2.weight)");
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

TEST(Codec, CoverageIsWhatIsCodedAndNamesThatNoTensorHas) {
  const auto covered = [](const char* tables) {
    return make_codec(Json::parse(tables), "test")->coverage(*model_layout());
  };
  const Coverage all = covered(R"([{"stage":"cast"}])");
  EXPECT_EQ(all.coded_values, 32 * 25 + 64 * 32 * 25 + 7000 + 1000);  // tiny.weight has 511 values
  EXPECT_TRUE(all.idle_patterns.empty());
  EXPECT_EQ(covered("[]").coded_values, 0);
  const Coverage some = covered(
      R"([{"for":["fc1.*","fc9*"],"stage":"cast"},{"for":["first","embedding"],"stage":"cast"}])");
  EXPECT_EQ(some.coded_values, 32 * 25 + 7000);
  EXPECT_EQ(some.idle_patterns, std::vector<std::string>{"fc9*"}) << "a role may be missing";
  const auto codec =
      make_codec(Json::parse(R"([{"for":"conv1.wieght","stage":"cast"}])"), "uplink");
  try {
    require_named_tensors(*codec, *model_layout(), "uplink");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'conv1.weight'"), std::string::npos)
        << error.what();
  }
}

TEST(Codec, WhatCodesNothingSaysWhy) {
  const auto note = [](const char* tables, const ParameterLayout& layout) {
    return idle_note(*make_codec(Json::parse(tables), "test"), layout, "uplink", "weight");
  };
  const ParameterLayout small({{"a", {7, 73}, Role::kWeight}, {"b", {600}, Role::kBias}});
  EXPECT_EQ(note("[]", small), "");
  EXPECT_EQ(note(R"([{"stage":"cast"}])", *model_layout()), "");
  EXPECT_EQ(note(R"([{"stage":"cast"}])", small),
            "[[uplink]] codes no weight: none has 512 values, and smaller ones travel as float32");
  EXPECT_EQ(note(R"([{"for":"embedding","stage":"cast"}])", *model_layout()),
            "[[uplink]] codes no weight: there is none that its `for` names");
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

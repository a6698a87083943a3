#include "espalier/codec/message.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/codec/codec.h"
#include "espalier/codec/test_damage.h"

namespace espalier::codec {
namespace {

ParameterSet small_model() {
  ParameterSet x(std::make_shared<ParameterLayout>(
      std::vector<ParameterInfo>{{"a.weight", {30, 40}, Role::kWeight},
                                 {"a.bias", {30}, Role::kBias},
                                 {"b.weight", {10, 60}, Role::kWeight}}));
  Stream stream{Key(1)};
  for (float& value : x.values()) value = static_cast<float>(stream.normal());
  return x;
}

const char* const kStages[] = {"", "hadamard,quantize:bits=4", "topk:keep=0.1",
                               "hadamard,dithered:bits=2", "kashin,cast"};

TEST(Message, EveryCutAndEveryFlippedBitIsAnError) {
  const ParameterSet x = small_model();
  for (const char* stages : kStages) {
    const auto codec = make_codec(parse_stages(stages), "uplink");
    Bytes message;
    codec->encode(x, Key(3), message);
    ParameterSet out(x.shared_layout());
    SCOPED_TRACE(stages);
    expect_cuts_are_errors(message, [&](auto cut) { codec->decode(cut, out); });
    for (size_t bit = 0; bit < 8 * message.size(); ++bit)
      ASSERT_THROW(codec->decode(with_flipped_bit(message, bit), out), Error) << "bit " << bit;
    codec->decode(message, out);
  }
}

TEST(Message, FlipsBehindAForgedChecksumAreErrorsOrFiniteValues) {
  const ParameterSet x = small_model();
  for (const char* stages : kStages) {
    const auto codec = make_codec(parse_stages(stages), "uplink");
    Bytes good;
    codec->encode(x, Key(3), good);
    ParameterSet out(x.shared_layout());
    Stream stream{Key(4)};
    for (int i = 0; i < 3000; ++i) {
      // The head is where sizes are: every bit of it, then bits anywhere.
      const uint64_t bit = i < 800 ? static_cast<uint64_t>(i) : stream.below(8 * (good.size() - 4));
      Bytes bad = with_flipped_bit(good, bit);
      bad.resize(bad.size() - 4);
      ByteWriter(bad).put(checksum32(bad));
      const auto check = [](const ParameterSet& values) {
        EXPECT_TRUE(all_finite(values.values()));
      };
      try {
        codec->decode(bad, out);
        check(out);
      } catch (const Error&) {
      }
      try {
        check(decode_any(bad, 1 << 20));
      } catch (const Error&) {
      }
    }
  }
}

TEST(Message, AnotherCodecIsRefusedAndNamed) {
  const ParameterSet x = small_model();
  const auto sender = make_codec(parse_stages("hadamard,quantize:bits=4"), "uplink");
  const auto receiver = make_codec(parse_stages("hadamard,quantize:bits=5"), "uplink");
  Bytes message;
  sender->encode(x, Key(3), message);
  ParameterSet out(x.shared_layout());
  try {
    receiver->decode(message, out);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("hadamard,quantize:bits=5"), std::string::npos)
        << error.what();
  }
}

TEST(Message, MoreValuesThanAllowedAreRefused) {
  const ParameterSet x = small_model();
  Bytes message;
  make_codec(Json::array(), "uplink")->encode(x, Key(3), message);
  EXPECT_EQ(decode_any(message, x.size()).size(), x.size());
  EXPECT_THROW(decode_any(message, x.size() - 1), Error);
}

}  // namespace
}  // namespace espalier::codec

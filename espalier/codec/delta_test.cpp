#include "espalier/codec/delta.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/codec/evaluate.h"

namespace espalier::codec {
namespace {

double error(const ParameterSet& a, const ParameterSet& b) {
  ParameterSet difference(a.shared_layout());
  subtract(a.values(), b.values(), difference.values());
  return squared_norm(difference.values());
}

bool equal(const ParameterSet& a, const ParameterSet& b) {
  return std::ranges::equal(a.values(), b.values());
}

TEST(Delta, CopiesStayEqualWhicheverWayTheyCame) {
  for (const char* stages :
       {"hadamard,quantize:bits=4", "hadamard,dithered:bits=2", "topk:keep=0.05"}) {
    const auto codec = make_codec_for_example(stages);
    ParameterSet x = make_example("normal", 5000, Key(1));
    DeltaSender server(*codec, x.shared_layout());
    DeltaReceiver steady(*codec, x.shared_layout()), sleepy(*codec, x.shared_layout()),
        late(*codec, x.shared_layout());
    Stream stream{Key(2)};
    size_t difference_size = 0;
    for (uint32_t t = 1; t <= 20; ++t) {
      for (float& value : x.values()) value += static_cast<float>(0.01 * stream.normal());
      server.advance(x, Key(t));
      EXPECT_EQ(server.version(), t);
      const auto message = server.message_for(steady.version());
      if (t > 1) difference_size = message.size();
      steady.apply(message);
      EXPECT_TRUE(equal(steady.state(), server.state()));
      if (t % 3 != 0) {  // misses every third round, and receives the whole state after it
        sleepy.apply(server.message_for(sleepy.version()));
        EXPECT_TRUE(equal(sleepy.state(), server.state()));
      }
    }
    late.apply(server.message_for(late.version()));
    EXPECT_TRUE(equal(late.state(), server.state()));
    EXPECT_EQ(late.version(), 20u);
    EXPECT_LT(difference_size, x.size()) << stages;  // a quarter of float32
    // No accumulation: the state is off by the loss of about one difference (topk: of twenty small
    // steps, at most).
    EXPECT_LT(error(server.state(), x), 2e-3 * squared_norm(x.values())) << stages;
  }
}

TEST(Delta, WrongMessagesLeaveTheStateAlone) {
  const auto codec = make_codec_for_example("hadamard,quantize:bits=4");
  ParameterSet x = make_example("normal", 1000, Key(1));
  DeltaSender server(*codec, x.shared_layout());
  DeltaReceiver client(*codec, x.shared_layout()), fresh(*codec, x.shared_layout());
  server.advance(x, Key(1));
  client.apply(server.message_for(client.version()));
  const ParameterSet before = client.state();
  x.values()[0] += 1;
  server.advance(x, Key(2));
  const auto message = server.message_for(client.version());
  EXPECT_THROW(fresh.apply(message), Error);
  Bytes bad(message.begin(), message.end());
  bad[40] ^= 1;
  EXPECT_THROW(client.apply(bad), Error);
  bad[0] = 7;
  EXPECT_THROW(client.apply(bad), Error);
  EXPECT_THROW(client.apply({}), Error);
  EXPECT_TRUE(equal(client.state(), before));
  client.apply(message);
  EXPECT_THROW(client.apply(message), Error);  // twice
  EXPECT_TRUE(equal(client.state(), server.state()));
}

TEST(Delta, GoesOnFromSavedStates) {
  const auto codec = make_codec_for_example("hadamard,quantize:bits=4");
  ParameterSet x = make_example("normal", 1000, Key(1));
  DeltaSender server(*codec, x.shared_layout());
  server.advance(x, Key(1));
  DeltaReceiver client(*codec, server.state(), server.version());
  DeltaSender resumed(*codec, server.state(), server.version());
  DeltaReceiver fresh(*codec, x.shared_layout());
  fresh.apply(resumed.message_for(fresh.version()));
  EXPECT_TRUE(equal(fresh.state(), server.state()));
  x.values()[0] += 1;
  resumed.advance(x, Key(2));
  client.apply(resumed.message_for(client.version()));
  EXPECT_TRUE(equal(client.state(), resumed.state()));
}

}  // namespace
}  // namespace espalier::codec

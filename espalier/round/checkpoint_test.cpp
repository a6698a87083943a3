#include "espalier/round/checkpoint.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"

namespace espalier::round {
namespace {

Checkpoint example() {
  Checkpoint checkpoint;
  checkpoint.configuration = fingerprint("seed = 1");
  checkpoint.round = 5;
  checkpoint.ledger.bytes_up = int64_t{1} << 60;
  checkpoint.ledger.best_accuracy = 0.1 + 0.2;  // not a short decimal
  checkpoint.global =
      ParameterSet(std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"w", {3}}}));
  checkpoint.global.values()[1] = -0.1f;
  checkpoint.strategy = {1, 2, 3};
  checkpoint.state_versions = {{7, 2}, {uint64_t{1} << 50, 5}};
  checkpoint.estimates.emplace("delta", checkpoint.global);
  checkpoint.downlink_state = checkpoint.global;
  checkpoint.strategy.resize(37);  // of a size that leaves other tensors unaligned
  return checkpoint;
}

TEST(Checkpoint, RoundTripIsExact) {
  const Checkpoint checkpoint = example();
  const Bytes bytes = encode_checkpoint(checkpoint);
  const Checkpoint read = decode_checkpoint(bytes, checkpoint.global.shared_layout(), "test");
  EXPECT_EQ(encode_checkpoint(read), bytes);
  EXPECT_EQ(read.ledger.best_accuracy, 0.1 + 0.2);
  EXPECT_EQ(read.state_versions, checkpoint.state_versions);
}

TEST(Checkpoint, DamageIsAnError) {
  const Checkpoint checkpoint = example();
  const Bytes bytes = encode_checkpoint(checkpoint);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW(
        decode_checkpoint(std::span(bytes).first(size), checkpoint.global.shared_layout(), "test"),
        Error);
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    Bytes broken = bytes;
    broken[i] ^= 0x10;
    EXPECT_THROW(decode_checkpoint(broken, checkpoint.global.shared_layout(), "test"), Error)
        << i << " " << bytes[i];
  }
  EXPECT_THROW(
      decode_checkpoint(
          bytes, std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"w", {4}}}), "test"),
      Error);
  EXPECT_THROW(read_checkpoint("/nonexistent/checkpoint", checkpoint.global.shared_layout()),
               Error);
}

}  // namespace
}  // namespace espalier::round

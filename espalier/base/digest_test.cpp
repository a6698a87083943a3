#include "espalier/base/digest.h"

#include <gtest/gtest.h>

#include "espalier/base/bytes.h"

namespace espalier {
namespace {

TEST(Digest, PiecesAreTheWhole) {
  Bytes data(10'000);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * i >> 3);
  Digest whole;
  whole.update(data);
  Digest parts;
  for (size_t at = 0; at < data.size(); at += 777)
    parts.update(std::span(data).subspan(at, std::min<size_t>(777, data.size() - at)));
  parts.update({});
  EXPECT_EQ(parts.value(), whole.value());
  EXPECT_EQ(whole.checksum32(), checksum32(data));
  // XXH3-64 of nothing, from the reference implementation.
  EXPECT_EQ(Digest().value(), 0x2d06800538d394c2U);
}

TEST(Digest, GoesOnAfterItsValueWasAsked) {
  const Bytes data = {1, 2, 3, 4};
  Digest one, two;
  one.update(std::span(data).first(2));
  const uint64_t half = one.value();
  one.update(std::span(data).subspan(2));
  two.update(data);
  EXPECT_EQ(one.value(), two.value());
  EXPECT_NE(one.value(), half);
}

}  // namespace
}  // namespace espalier

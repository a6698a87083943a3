#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/error.h"

// For the tests of this module: what must hold for bytes that did not arrive as they were sent.
namespace espalier::codec {

inline Bytes with_flipped_bit(Bytes bytes, size_t bit) {
  bytes[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
  return bytes;
}

// Every shorter message is an Error.
inline void expect_cuts_are_errors(const Bytes& bytes,
                                   const std::function<void(std::span<const uint8_t>)>& decode) {
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_THROW(decode(std::span(bytes).first(size)), Error) << size << " of " << bytes.size();
}

// `decode` writes n values. Every shorter message is an Error; whatever bit is flipped, the decoder
// throws an Error or writes finite values.
inline void expect_errors_or_finite_values(
    const Bytes& bytes, size_t n,
    const std::function<void(std::span<const uint8_t>, std::span<float>)>& decode) {
  std::vector<float> out(n);
  expect_cuts_are_errors(bytes, [&](std::span<const uint8_t> cut) { decode(cut, out); });
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    try {
      decode(with_flipped_bit(bytes, bit), out);
    } catch (const Error&) {
    }
    for (const float v : out) ASSERT_TRUE(std::isfinite(v)) << "bit " << bit;
  }
}

}  // namespace espalier::codec

#pragma once

#include <cstdint>

#include "espalier/base/bytes.h"

// Unsigned LEB128 integers: 7 bits per byte, least significant first, the high bit set on every
// byte but the last.
namespace espalier {

inline void put_varint(Bytes& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<uint8_t>(value | 0x80));
  out.push_back(static_cast<uint8_t>(value));
}

// Throws Error beyond ten bytes or 64 bits, and on a longer form than necessary (one value, one
// spelling).
inline uint64_t get_varint(ByteReader& in) {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    const auto byte = in.get<uint8_t>();
    if (shift == 63 && byte > 1) break;
    value |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) {
      if (byte == 0 && shift > 0) break;
      return value;
    }
  }
  fail(in.where(), "not a variable-length integer, at byte ", in.position());
}

// Signed as unsigned, small magnitudes first: 0, −1, 1, −2, …
inline uint64_t zigzag(int64_t value) {
  return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
}
inline int64_t unzigzag(uint64_t value) {
  return static_cast<int64_t>((value >> 1) ^ (~(value & 1) + 1));
}

}  // namespace espalier

#pragma once

#include <bit>
#include <cstdint>

// bfloat16: the upper half of a float32. Arguments are finite and below the largest bfloat16 in
// magnitude.
namespace espalier::codec {

inline float from_bfloat(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

// The nearest, ties to even.
inline uint16_t bfloat_nearest(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

// The greatest bfloat16 ≤ value, the least ≥ value.
inline uint16_t bfloat_down(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + (bits >> 31 != 0 ? 0xffffu : 0)) >> 16);
}
inline uint16_t bfloat_up(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + (bits >> 31 == 0 ? 0xffffu : 0)) >> 16);
}

}  // namespace espalier::codec

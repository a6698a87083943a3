#pragma once

#include <cstdint>
#include <cstring>

#include "espalier/base/simd.h"
#include "espalier/nn/kernels.h"

// Vectors of 16 floats for kernels whose loops the compiler does not vectorize by itself. Where
// registers are narrower the compiler splits them. They are never passed between functions that are
// not inlined, which is what the warning is about.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace espalier::nn {

using Lanes = float __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));
using Halves = uint16_t __attribute__((vector_size(32)));
using Quarters = uint8_t __attribute__((vector_size(16)));
constexpr size_t kLanes = 16;

ESPALIER_INLINE void load(const float* from, Lanes& to) { std::memcpy(&to, from, sizeof(to)); }
ESPALIER_INLINE void load(const Bf16* from, Lanes& to) {
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  const Words words = __builtin_convertvector(halves, Words) << 16;
  std::memcpy(&to, &words, sizeof(to));
}
ESPALIER_INLINE void load(const uint8_t* from, Words& to) {
  Quarters quarters;
  std::memcpy(&quarters, from, sizeof(quarters));
  to = __builtin_convertvector(quarters, Words);
}
ESPALIER_INLINE void store(const Lanes& from, float* to) { std::memcpy(to, &from, sizeof(from)); }
ESPALIER_INLINE void store(const Lanes& from, Bf16* to) {
  Words words;
  std::memcpy(&words, &from, sizeof(words));
  const Words rounded = (words + 0x7fffU + ((words >> 16) & 1U)) >> 16;
  const Words quiet = (from != from) ? Words{} + 0x7fc0U : rounded;
  const Halves halves = __builtin_convertvector(quiet, Halves);
  std::memcpy(to, &halves, sizeof(halves));
}
ESPALIER_INLINE void store(const Words& from, uint8_t* to) {
  const Quarters quarters = __builtin_convertvector(from, Quarters);
  std::memcpy(to, &quarters, sizeof(quarters));
}

}  // namespace espalier::nn

// Philox4x32 in vectors, for the .cpp files that are compiled once per target. No #pragma once:
// Highway's own toggle.
#if defined(ESPALIER_CODEC_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ESPALIER_CODEC_PHILOX_INL_H_
#undef ESPALIER_CODEC_PHILOX_INL_H_
#else
#define ESPALIER_CODEC_PHILOX_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace espalier::codec::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A line: 16 Philox blocks of 4 words, transposed. Word 16·k + j of line L is word k of the block
// with counter (16·L + j, high half of that, domain, 0). Vectors of 4, 8 or 16 lanes therefore
// write the same 64 words.
constexpr size_t kLineWords = 64;

// Lines line … line + kLines − 1, one after the other; several at once hide the multiplications'
// latency.
template <int kRounds, size_t kLines>
HWY_INLINE void philox_lines(uint64_t key, uint32_t domain, uint64_t line,
                             uint32_t* HWY_RESTRICT words) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
#if HWY_TARGET == HWY_SCALAR
  for (size_t l = 0; l < kLines; ++l, ++line, words += kLineWords) {
    for (uint32_t j = 0; j < 16; ++j) {
      uint32_t c0 = static_cast<uint32_t>(line << 4) + j, c1 = static_cast<uint32_t>(line >> 28);
      uint32_t c2 = domain, c3 = 0;
      auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
      for (int round = 0; round < kRounds; ++round) {
        const uint64_t p0 = uint64_t{kMultiplier0} * c0, p1 = uint64_t{kMultiplier1} * c2;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(p1);
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(p0);
        k0 += kWeyl0;
        k1 += kWeyl1;
      }
      words[j] = c0, words[16 + j] = c1, words[32 + j] = c2, words[48 + j] = c3;
    }
  }
#else
  static_assert(kRounds >= 4);
  // Not hn::Iota, which stores 16 words and waits to load them as one vector.
  alignas(64) static constexpr uint32_t kColumns[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                        8, 9, 10, 11, 12, 13, 14, 15};
  const hn::CappedTag<uint32_t, 16> d;
  const hn::Repartition<uint64_t, decltype(d)> d64;
  using V = hn::Vec<decltype(d)>;
  using V64 = hn::Vec<decltype(d64)>;
  const V m0 = hn::Set(d, kMultiplier0), m1 = hn::Set(d, kMultiplier1);
  // Even and odd counters stand in vectors of their own, a word in the low half of 64 bits: a
  // product is then the next word in its low half and, shifted, the other one. What the upper
  // halves hold does not matter before the last round.
  const auto times = [&](V64 a, V m) HWY_ATTR { return hn::MulEven(hn::BitCast(d, a), m); };
  const auto word = [&](uint32_t value) HWY_ATTR { return hn::Set(d64, value); };
  const auto merge_low = [&](V64 even, V64 odd) HWY_ATTR {
    return hn::OddEven(hn::BitCast(d, hn::ShiftLeft<32>(odd)), hn::BitCast(d, even));
  };
  const auto merge_high = [&](V64 even, V64 odd) HWY_ATTR {
    return hn::OddEven(hn::BitCast(d, odd), hn::BitCast(d, hn::ShiftRight<32>(even)));
  };
  constexpr size_t kHalves = 2 * kLines;
  for (size_t j = 0; j < 16; j += hn::Lanes(d)) {
    V64 c0[kHalves], c1[kHalves], c2[kHalves], c3[kHalves];
    auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    // Two words of a counter are constants, hence in the first two rounds one product each is.
    const uint64_t domain_product = uint64_t{kMultiplier1} * domain;
#pragma GCC unroll 8
    for (size_t l = 0; l < kHalves; ++l) {
      const uint64_t at = line + l / 2;
      const auto counter = hn::BitCast(
          d64, hn::Add(hn::Load(d, kColumns + j), hn::Set(d, static_cast<uint32_t>(at << 4))));
      const V64 product0 = times(l % 2 == 0 ? counter : hn::ShiftRight<32>(counter), m0);
      const uint32_t second0 =
          static_cast<uint32_t>(domain_product >> 32) ^ static_cast<uint32_t>(at >> 28) ^ k0;
      const uint64_t constant0 = uint64_t{kMultiplier0} * second0;
      const V64 second2 = hn::Xor(hn::ShiftRight<32>(product0), word(k1));
      const V64 product1 = times(second2, m1);
      c0[l] = hn::Xor(hn::ShiftRight<32>(product1),
                      word(static_cast<uint32_t>(domain_product) ^ (k0 + kWeyl0)));
      c1[l] = product1;
      c2[l] = hn::Xor(product0, word(static_cast<uint32_t>(constant0 >> 32) ^ (k1 + kWeyl1)));
      c3[l] = word(static_cast<uint32_t>(constant0));
    }
    k0 += 2 * kWeyl0;
    k1 += 2 * kWeyl1;
    for (int round = 2; round + 1 < kRounds; ++round) {
      const V64 key0 = word(k0), key1 = word(k1);
#pragma GCC unroll 8
      for (size_t l = 0; l < kHalves; ++l) {
        const V64 product0 = times(c0[l], m0), product1 = times(c2[l], m1);
        c0[l] = hn::Xor(hn::Xor(hn::ShiftRight<32>(product1), c1[l]), key0);
        c2[l] = hn::Xor(hn::Xor(hn::ShiftRight<32>(product0), c3[l]), key1);
        c1[l] = product1;
        c3[l] = product0;
      }
      k0 += kWeyl0;
      k1 += kWeyl1;
    }
#pragma GCC unroll 4
    for (size_t l = 0; l < kLines; ++l) {
      const size_t e = 2 * l, o = e + 1;
      const V64 even0 = times(c0[e], m0), even1 = times(c2[e], m1);
      const V64 odd0 = times(c0[o], m0), odd1 = times(c2[o], m1);
      uint32_t* to = words + kLineWords * l + j;
      const V low1 = merge_low(c1[e], c1[o]), low3 = merge_low(c3[e], c3[o]);
      hn::StoreU(hn::Xor(hn::Xor(merge_high(even1, odd1), low1), hn::Set(d, k0)), d, to);
      hn::StoreU(merge_low(even1, odd1), d, to + 16);
      hn::StoreU(hn::Xor(hn::Xor(merge_high(even0, odd0), low3), hn::Set(d, k1)), d, to + 32);
      hn::StoreU(merge_low(even0, odd0), d, to + 48);
    }
  }
#endif
}

template <int kRounds>
HWY_INLINE void philox_line(uint64_t key, uint32_t domain, uint64_t line,
                            uint32_t* HWY_RESTRICT words) {
  philox_lines<kRounds, 1>(key, domain, line, words);
}

}  // namespace espalier::codec::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

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
  const hn::CappedTag<uint32_t, 16> d;
  const hn::Repartition<uint64_t, decltype(d)> d64;
  using V = hn::Vec<decltype(d)>;
  const V m0 = hn::Set(d, kMultiplier0), m1 = hn::Set(d, kMultiplier1);
  const auto high_half = [&](V a, V m) HWY_ATTR {
    const auto even = hn::MulEven(a, m);
    const auto odd = hn::MulEven(hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(d64, a))), m);
    return hn::OddEven(hn::BitCast(d, odd), hn::BitCast(d, hn::ShiftRight<32>(even)));
  };
  for (size_t j = 0; j < 16; j += hn::Lanes(d)) {
    V c0[kLines], c1[kLines], c2[kLines], c3[kLines];
#pragma GCC unroll 4
    for (size_t l = 0; l < kLines; ++l) {
      c0[l] = hn::Iota(d, static_cast<uint32_t>((line + l) << 4) + static_cast<uint32_t>(j));
      c1[l] = hn::Set(d, static_cast<uint32_t>((line + l) >> 28));
      c2[l] = hn::Set(d, domain);
      c3[l] = hn::Zero(d);
    }
    auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 4
      for (size_t l = 0; l < kLines; ++l) {
        const V next0 = hn::Xor(hn::Xor(high_half(c2[l], m1), c1[l]), hn::Set(d, k0));
        const V next2 = hn::Xor(hn::Xor(high_half(c0[l], m0), c3[l]), hn::Set(d, k1));
        c1[l] = hn::Mul(c2[l], m1);
        c3[l] = hn::Mul(c0[l], m0);
        c0[l] = next0;
        c2[l] = next2;
      }
      k0 += kWeyl0;
      k1 += kWeyl1;
    }
#pragma GCC unroll 4
    for (size_t l = 0; l < kLines; ++l) {
      hn::StoreU(c0[l], d, words + kLineWords * l + j);
      hn::StoreU(c1[l], d, words + kLineWords * l + 16 + j);
      hn::StoreU(c2[l], d, words + kLineWords * l + 32 + j);
      hn::StoreU(c3[l], d, words + kLineWords * l + 48 + j);
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

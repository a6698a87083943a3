#include "espalier/codec/uniform.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "espalier/base/error.h"

#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "espalier/codec/uniform.cpp"
// The order matters.
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "espalier/codec/philox-inl.h"
// clang-format on

#ifndef ESPALIER_CODEC_UNIFORM_GRID
#define ESPALIER_CODEC_UNIFORM_GRID
namespace espalier::codec {

// The levels; inverse_step carries the fixed point's factor. Ranges near the denormals are lifted
// by a power of two, so that steps keep their precision.
struct UniformGrid {
  float low, lift, inverse_step, step, drop;
  uint32_t levels;
  int fraction_bits;

  UniformGrid(Range range, int bits)
      : low(range.low), levels((1u << bits) - 1), fraction_bits(std::min(16, 23 - bits)) {
    const float width = range.high - range.low, steps = static_cast<float>(levels);
    lift = width < 0x1p-100f ? 0x1p60f : 1.0f;
    drop = 1.0f / lift;
    inverse_step =
        width > 0 ? steps / (width * lift) * static_cast<float>(1 << fraction_bits) : 0.0f;
    step = width * lift / steps;
  }
};

}  // namespace espalier::codec
#endif

HWY_BEFORE_NAMESPACE();
namespace espalier::codec::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr uint32_t kRoundingDomain = 0x524E444Eu;
constexpr size_t kGroup = 512;
constexpr size_t kRowsPerLine =
    8;  // a row is 16 codes; a line of 64 words serves 8 of them, first its low halves

// As many as the registers hold.
constexpr size_t kLinesAtOnce = HWY_MAX_BYTES >= 64 ? 4 : 2;

using DI = hn::CappedTag<int32_t, 16>;
using DU = hn::CappedTag<uint32_t, 16>;
using DF = hn::CappedTag<float, 16>;

// In fixed point with f fraction bits: ⌊v·2^f⌉ plus f random bits, shifted right by f, is v rounded
// up with probability v − ⌊v⌋. Adding 2^23 leaves the rounded integer in a float's low bits.
constexpr float kMagic = 0x1p23f;
constexpr uint32_t kMagicBits = 0x4B000000u;

HWY_INLINE hn::Vec<DU> codes_of(hn::Vec<DF> x, hn::Vec<DU> random, const UniformGrid& grid) {
  const DU du;
  const DF df;
  const auto v = hn::Mul(hn::Mul(hn::Sub(x, hn::Set(df, grid.low)), hn::Set(df, grid.lift)),
                         hn::Set(df, grid.inverse_step));
  const auto fixed = hn::BitCast(du, hn::Add(v, hn::Set(df, kMagic)));
  const auto noise =
      hn::Sub(hn::ShiftRightSame(random, 16 - grid.fraction_bits), hn::Set(du, kMagicBits));
  return hn::Min(hn::ShiftRightSame(hn::Add(fixed, noise), grid.fraction_bits),
                 hn::Set(du, grid.levels));
}

inline uint32_t code_of(float x, uint32_t random, const UniformGrid& grid) {
  const float v = ((x - grid.low) * grid.lift) * grid.inverse_step;
  const uint32_t fixed = std::bit_cast<uint32_t>(v + kMagic) - kMagicBits;
  return std::min((fixed + (random >> (16 - grid.fraction_bits))) >> grid.fraction_bits,
                  grid.levels);
}

#if HWY_TARGET == HWY_SCALAR

size_t encode_plain(const float*, size_t, const UniformGrid&, int, uint64_t, uint8_t*,
                    const float*) {
  return 0;
}

#else

// Whether the short way below gives the definition's codes. Up to six bits, v exceeds the last
// level by less than half a unit of the fixed point, as x − low ≤ high − low and two roundings
// follow: no code is too large.
bool plain_grid(const UniformGrid& grid, int bits) { return bits <= 6 && grid.lift == 1.0f; }

// Shifts by a constant in either direction.
template <int kLeft>
HWY_INLINE hn::Vec<DU> moved(hn::Vec<DU> x) {
  if constexpr (kLeft > 0)
    return hn::ShiftLeft<kLeft>(x);
  else if constexpr (kLeft < 0)
    return hn::ShiftRight<-kLeft>(x);
  else
    return x;
}

// Rows kRow … 31 of a group on a plain grid, for one vector's columns. The code stands in bits
// 16 … 15 + kBits below the bits of kMagic, and is moved from there to its place in the word.
template <int kBits, int kRow>
HWY_INLINE void pack_rows(const float* HWY_RESTRICT x, const uint32_t* HWY_RESTRICT random,
                          hn::Vec<DF> low, hn::Vec<DF> inverse_step, hn::Vec<DU> word,
                          uint8_t* HWY_RESTRICT to, const float* upcoming) {
  // Every row asks for the line that takes its place in the next block.
  if constexpr (kRow < 32) {
    __builtin_prefetch(upcoming + 16 * kRow);
    constexpr int kAt = kRow * kBits % 32;
    constexpr uint32_t kMask = (1u << kBits) - 1;
    const DU du;
    const DF df;
    const auto v = hn::Mul(hn::Sub(hn::LoadU(df, x + 16 * kRow), low), inverse_step);
    const auto fixed = hn::BitCast(du, hn::Add(v, hn::Set(df, kMagic)));
    const auto raw = hn::Load(du, random + kRow / 8 * kLineWords + 16 * (kRow % 4));
    const auto noise = kRow & 4 ? hn::ShiftRight<16>(raw) : hn::And(raw, hn::Set(du, 0xffffu));
    const auto sum = hn::Add(fixed, noise);
    word = hn::OrAnd(word, moved<kAt - 16>(sum), hn::Set(du, kMask << kAt));
    if constexpr (kAt + kBits >= 32) {
      const hn::Repartition<uint8_t, DU> bytes;
      hn::StoreU(hn::BitCast(bytes, word), bytes, to);
      to += 64;
      constexpr int kOver = kAt + kBits - 32;
      word = hn::Zero(du);
      if constexpr (kOver > 0) {
        word = hn::And(moved<kOver - kBits - 16>(sum), hn::Set(du, (1u << kOver) - 1));
      }
    }
    pack_rows<kBits, kRow + 1>(x, random, low, inverse_step, word, to, upcoming);
  }
}

// The whole groups of x; returns where the rest begins.
template <int kBits>
size_t encode_groups(const float* HWY_RESTRICT x, size_t n, const UniformGrid& grid, uint64_t key,
                     uint8_t* HWY_RESTRICT out, const float* upcoming) {
  const DU du;
  const DF df;
  HWY_ALIGN uint32_t random[4 * kLineWords];
  const auto low = hn::Set(df, grid.low), inverse_step = hn::Set(df, grid.inverse_step);
  size_t begin = 0;
  for (; begin + kGroup <= n; begin += kGroup) {
    philox_lines<7, 2>(key, kRoundingDomain, begin / 128, random);
    philox_lines<7, 2>(key, kRoundingDomain, begin / 128 + 2, random + 2 * kLineWords);
    for (size_t j = 0; j < 16; j += hn::Lanes(du))
      pack_rows<kBits, 0>(x + begin + j, random + j, low, inverse_step, hn::Zero(du), out + 4 * j,
                          upcoming + begin);
    out += 64 * kBits;
  }
  return begin;
}

size_t encode_plain(const float* x, size_t n, const UniformGrid& grid, int bits, uint64_t key,
                    uint8_t* out, const float* upcoming) {
  if (!plain_grid(grid, bits)) return 0;
  switch (bits) {
    case 1:
      return encode_groups<1>(x, n, grid, key, out, upcoming);
    case 2:
      return encode_groups<2>(x, n, grid, key, out, upcoming);
    case 3:
      return encode_groups<3>(x, n, grid, key, out, upcoming);
    case 4:
      return encode_groups<4>(x, n, grid, key, out, upcoming);
    case 5:
      return encode_groups<5>(x, n, grid, key, out, upcoming);
    default:
      return encode_groups<6>(x, n, grid, key, out, upcoming);
  }
}

#endif

void encode_kernel(const float* x, size_t n, const UniformGrid& grid, int bits, uint64_t key,
                   uint8_t* out, const float* upcoming) {
  const DU du;
  const DF df;
  const size_t lanes = hn::Lanes(du);
  HWY_ALIGN uint32_t random[4 * kLineWords];
  HWY_ALIGN uint32_t words[16 * 16];
  const auto low_half = hn::Set(du, 0xffffu);
  size_t begin = encode_plain(x, n, grid, bits, key, out, upcoming);
  out += begin / 8 * static_cast<size_t>(bits);
  for (; begin + kGroup <= n; begin += kGroup) {
    philox_lines<7, kLinesAtOnce>(key, kRoundingDomain, begin / 128, random);
    if constexpr (kLinesAtOnce == 2) {
      philox_lines<7, 2>(key, kRoundingDomain, begin / 128 + 2, random + 2 * kLineWords);
    }
    for (size_t j = 0; j < 16; j += lanes) {
      auto word = hn::Zero(du);
      int filled = 0;
      uint32_t* to = words + j;
      for (size_t row = 0; row < 32; ++row) {
        auto noise = hn::Load(du, random + (row / kRowsPerLine) * kLineWords + 16 * (row % 4) + j);
        noise = row & 4 ? hn::ShiftRight<16>(noise) : hn::And(noise, low_half);
        const auto code = codes_of(hn::LoadU(df, x + begin + 16 * row + j), noise, grid);
        word = hn::Or(word, hn::ShiftLeftSame(code, filled));
        filled += bits;
        if (filled >= 32) {
          hn::Store(word, du, to);
          to += 16;
          filled -= 32;
          word = filled > 0 ? hn::ShiftRightSame(code, bits - filled) : hn::Zero(du);
        }
      }
    }
    const size_t size = 64 * static_cast<size_t>(bits);
    std::memcpy(out, words, size);
    out += size;
  }

  uint64_t pending = 0;
  int filled = 0;
  for (size_t i = begin; i < n; ++i) {
    const size_t row = (i - begin) / 16, within_line = row % kRowsPerLine;
    if ((i - begin) % 128 == 0) philox_line<7>(key, kRoundingDomain, i / 128, random);
    const uint32_t word = random[16 * (within_line % 4) + i % 16];
    pending |= uint64_t{code_of(x[i], within_line & 4 ? word >> 16 : word & 0xffffu, grid)}
               << filled;
    for (filled += bits; filled >= 8; filled -= 8, pending >>= 8)
      *out++ = static_cast<uint8_t>(pending);
  }
  if (filled > 0) *out = static_cast<uint8_t>(pending);
}

void decode_kernel(const uint8_t* in, size_t n, const UniformGrid& grid, int bits, float* out) {
  const DU du;
  const DI di;
  const DF df;
  const size_t lanes = hn::Lanes(du);
  HWY_ALIGN uint32_t words[16 * 17];
  const auto mask = hn::Set(du, (1u << bits) - 1);
  const auto step = hn::Set(df, grid.step), drop = hn::Set(df, grid.drop),
             low = hn::Set(df, grid.low);
  size_t begin = 0;
  for (; begin + kGroup <= n; begin += kGroup) {
    const size_t size = 64 * static_cast<size_t>(bits);
    std::memcpy(words, in, size);
    in += size;
    for (size_t j = 0; j < 16; j += lanes) {
      const uint32_t* from = words + j;
      auto word = hn::Load(du, from);
      int used = 0;
      for (size_t row = 0; row < 32; ++row) {
        auto code = hn::ShiftRightSame(word, used);
        used += bits;
        if (used >= 32) {
          used -= 32;
          from += 16;
          if (row < 31) word = hn::Load(du, from);
          if (used > 0) code = hn::Or(code, hn::ShiftLeftSame(word, bits - used));
        }
        const auto value = hn::ConvertTo(df, hn::BitCast(di, hn::And(code, mask)));
        hn::StoreU(hn::Add(hn::Mul(hn::Mul(value, step), drop), low), df,
                   out + begin + 16 * row + j);
      }
    }
  }

  uint64_t pending = 0;
  int filled = 0;
  for (size_t i = begin; i < n; ++i) {
    for (; filled < bits; filled += 8) pending |= uint64_t{*in++} << filled;
    const auto code = static_cast<int32_t>(pending & ((1u << bits) - 1));
    pending >>= bits;
    filled -= bits;
    out[i] = static_cast<float>(code) * grid.step * grid.drop + grid.low;
  }
}

Range range_kernel(const float* x, size_t n) {
  const DF df;
  const size_t lanes = hn::Lanes(df);
  auto low = hn::Set(df, x[0]), high = low;
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(df, x + i);
    low = hn::Min(low, v);
    high = hn::Max(high, v);
  }
  Range range{hn::GetLane(hn::MinOfLanes(df, low)), hn::GetLane(hn::MaxOfLanes(df, high))};
  for (; i < n; ++i) {
    range.low = std::min(range.low, x[i]);
    range.high = std::max(range.high, x[i]);
  }
  // Which of two zeros is found depends on the order: −0 + 0 = +0 for all.
  range.low += 0.0f;
  range.high += 0.0f;
  return range;
}

}  // namespace espalier::codec::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::codec {

HWY_EXPORT(encode_kernel);
HWY_EXPORT(decode_kernel);
HWY_EXPORT(range_kernel);

size_t packed_bytes(size_t n, int bits) { return (n * static_cast<size_t>(bits) + 7) / 8; }

Range range_of(std::span<const float> x) {
  if (x.empty()) return {};
  return HWY_DYNAMIC_DISPATCH(range_kernel)(x.data(), x.size());
}

void quantize_uniform(std::span<const float> x, Range range, int bits, Key key, uint8_t* out,
                      std::span<const float> upcoming) {
  ESPALIER_CHECK(bits >= 1 && bits <= 16, bits);
  HWY_DYNAMIC_DISPATCH(encode_kernel)
  (x.data(), x.size(), UniformGrid(range, bits), bits, key.value(), out,
   upcoming.size() < x.size() ? x.data() : upcoming.data());
}

void dequantize_uniform(const uint8_t* in, Range range, int bits, std::span<float> out) {
  ESPALIER_CHECK(bits >= 1 && bits <= 16, bits);
  HWY_DYNAMIC_DISPATCH(decode_kernel)(in, out.size(), UniformGrid(range, bits), bits, out.data());
}

}  // namespace espalier::codec
#endif

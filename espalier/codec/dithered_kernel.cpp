#include "espalier/codec/dithered_kernel.h"

#include <algorithm>
#include <cfloat>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "espalier/codec/dithered_kernel.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "espalier/codec/philox-inl.h"

HWY_BEFORE_NAMESPACE();
namespace espalier::codec::HWY_NAMESPACE {
namespace {  // names like quantize recur in other kernels of this namespace
namespace hn = hwy::HWY_NAMESPACE;
using detail::DitheredLayout;
using detail::kDitherLine;

using DU = hn::CappedTag<uint32_t, 16>;
using DI = hn::Rebind<int32_t, DU>;
using DF = hn::Rebind<float, DU>;
using VU = hn::Vec<DU>;
using VI = hn::Vec<DI>;
using VF = hn::Vec<DF>;

void fill_words(uint64_t key, uint64_t first_line, uint32_t* HWY_RESTRICT words, size_t n) {
  for (size_t i = 0; i < n; i += kDitherLine, ++first_line)
    philox_line<10>(key, 0, first_line, words + i);
}

HWY_INLINE VF dither(VU word) {
  const DF df;
  const VI v = hn::ShiftRight<8>(hn::BitCast(DI(), word));
  return hn::Mul(hn::Add(hn::ConvertTo(df, v), hn::Set(df, 0.5f)), hn::Set(df, 0x1p-24f));
}

// All ones where u < 0.
HWY_INLINE VI mirror(VU word) { return hn::ShiftRight<31>(hn::BitCast(DI(), word)); }

HWY_INLINE VU context(VU word, int shift) {
  const DU d;
  return hn::ShiftRightSame(hn::Xor(word, hn::BitCast(d, mirror(word))), shift);
}

bool quantize(const DitheredLayout& layout, const float* HWY_RESTRICT x,
              const uint32_t* HWY_RESTRICT words, float inverse, size_t n,
              uint16_t* HWY_RESTRICT joint, uint8_t* HWY_RESTRICT raw, int32_t* HWY_RESTRICT m) {
  const DU d;
  const DI di;
  const DF df;
  const hn::Rebind<uint16_t, DU> d16;
  const hn::Rebind<uint8_t, DU> d8;
  const size_t lanes = hn::Lanes(d);
  const VF scale = hn::Set(df, inverse);
  const VI half = hn::Set(di, (1 << layout.raw_bits) >> 1);
  const VU low_mask = hn::Set(d, (1u << layout.raw_bits) - 1);
  const VU escape = hn::Set(d, static_cast<uint32_t>(2 * layout.reach + 1));
  const VI reach = hn::Set(di, layout.reach);
  const int shift = 31 - layout.bin_bits;
  VU highest = hn::Zero(d);
  for (size_t i = 0; i < n; i += lanes) {
    const VU word = hn::LoadU(d, words + i);
    // Rounded twice: the module is compiled without contraction, so that the bytes do not depend on
    // FMA.
    const VF product = hn::Mul(hn::LoadU(df, x + i), scale);
    const VI k = hn::NearestInt(hn::Add(product, dither(word)));
    const VI flip = mirror(word);
    const VI mirrored = hn::Sub(hn::Xor(k, flip), flip);
    hn::StoreU(mirrored, di, m + i);
    const VI shifted = hn::Add(mirrored, half);
    const VI high = hn::ShiftRightSame(shifted, layout.raw_bits);
    // Below −reach the sum wraps to a huge unsigned number: both sides become the escape.
    const VU symbol = hn::Min(hn::BitCast(d, hn::Add(high, reach)), escape);
    highest = hn::Max(highest, symbol);
    if (layout.raw_bits > 0) {
      hn::StoreU(hn::TruncateTo(d8, hn::And(hn::BitCast(d, shifted), low_mask)), d8, raw + i);
    }
    hn::StoreU(hn::TruncateTo(d16, hn::Or(hn::ShiftLeft<8>(context(word, shift)), symbol)), d16,
               joint + i);
  }
  return hn::GetLane(hn::MaxOfLanes(d, highest)) == static_cast<uint32_t>(2 * layout.reach + 1);
}

void contexts_of(int bin_bits, const uint32_t* HWY_RESTRICT words, size_t n,
                 uint8_t* HWY_RESTRICT contexts) {
  const DU d;
  const hn::Rebind<uint8_t, DU> d8;
  const int shift = 31 - bin_bits;
  for (size_t i = 0; i < n; i += hn::Lanes(d)) {
    hn::StoreU(hn::TruncateTo(d8, context(hn::LoadU(d, words + i), shift)), d8, contexts + i);
  }
}

bool rebuild(const DitheredLayout& layout, const uint8_t* HWY_RESTRICT symbols,
             const uint8_t* HWY_RESTRICT raw, const uint32_t* HWY_RESTRICT words, float scale,
             size_t n, float* HWY_RESTRICT out) {
  const DU d;
  const DI di;
  const DF df;
  const hn::Rebind<uint8_t, DU> d8;
  const size_t lanes = hn::Lanes(d);
  const VF step = hn::Set(df, scale), largest = hn::Set(df, FLT_MAX),
           smallest = hn::Set(df, -FLT_MAX);
  const VI offset = hn::Set(di, layout.reach), half = hn::Set(di, (1 << layout.raw_bits) >> 1);
  VU highest = hn::Zero(d);
  size_t i = 0;
  const auto values = [&](size_t at) HWY_ATTR {
    const VU word = hn::LoadU(d, words + at);
    const VU symbol = hn::PromoteTo(d, hn::LoadU(d8, symbols + at));
    highest = hn::Max(highest, symbol);
    VI m = hn::ShiftLeftSame(hn::Sub(hn::BitCast(di, symbol), offset), layout.raw_bits);
    if (layout.raw_bits > 0) {
      m = hn::Sub(hn::Add(m, hn::BitCast(di, hn::PromoteTo(d, hn::LoadU(d8, raw + at)))), half);
    }
    const VI flip = mirror(word);
    const VI k = hn::Sub(hn::Xor(m, flip), flip);
    const VF value = hn::Mul(hn::Sub(hn::ConvertTo(df, k), dither(word)), step);
    return hn::Min(hn::Max(value, smallest), largest);
  };
  for (; i + lanes <= n; i += lanes) hn::StoreU(values(i), df, out + i);
  if (i < n) {  // `out` ends where the caller's memory may end
    alignas(64) float rest[16];
    hn::Store(values(i), df, rest);
    std::copy_n(rest, n - i, out + i);
  }
  return hn::GetLane(hn::MaxOfLanes(d, highest)) == static_cast<uint32_t>(2 * layout.reach + 1);
}

}  // namespace
}  // namespace espalier::codec::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::codec {

HWY_EXPORT(fill_words);
HWY_EXPORT(quantize);
HWY_EXPORT(contexts_of);
HWY_EXPORT(rebuild);

namespace detail {

void dither_words(uint64_t key, uint64_t first_line, uint32_t* words, size_t n) {
  HWY_DYNAMIC_DISPATCH(fill_words)(key, first_line, words, n);
}

bool dithered_quantize(const DitheredLayout& layout, const float* x, const uint32_t* words,
                       float inverse, size_t n, uint16_t* joint, uint8_t* raw, int32_t* m) {
  return HWY_DYNAMIC_DISPATCH(quantize)(layout, x, words, inverse, n, joint, raw, m);
}

void dithered_contexts(int bin_bits, const uint32_t* words, size_t n, uint8_t* contexts) {
  HWY_DYNAMIC_DISPATCH(contexts_of)(bin_bits, words, n, contexts);
}

bool dithered_rebuild(const DitheredLayout& layout, const uint8_t* symbols, const uint8_t* raw,
                      const uint32_t* words, float scale, size_t n, float* out) {
  return HWY_DYNAMIC_DISPATCH(rebuild)(layout, symbols, raw, words, scale, n, out);
}

float dithered_rebuild_one(int32_t m, uint32_t word, float scale) {
  const int32_t v = static_cast<int32_t>(word) >> 8;
  const float u = (static_cast<float>(v) + 0.5f) * 0x1p-24f;
  const int64_t k = static_cast<int32_t>(word) < 0 ? -int64_t{m} : int64_t{m};
  return std::clamp((static_cast<float>(k) - u) * scale, -FLT_MAX, FLT_MAX);
}

}  // namespace detail
}  // namespace espalier::codec
#endif  // HWY_ONCE

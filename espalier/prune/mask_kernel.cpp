#include "espalier/prune/mask_kernel.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "espalier/prune/bits.h"

// Scalable vectors may be longer than a word has bits; NEON serves those machines.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "espalier/prune/mask_kernel.cpp"
// The order matters.
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace espalier::prune::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
constexpr uint64_t kAll = ~uint64_t{0};

// The mask of the lowest bits.
template <class Tag>
HWY_INLINE hn::Mask<Tag> mask_of(Tag d, uint64_t bits) {
  uint8_t bytes[8];
  std::memcpy(bytes, &bits, 8);
  return hn::LoadMaskBits(d, bytes);
}

HWY_ATTR void zero_unset_kernel(const uint64_t* words, uint64_t invert, float* values, size_t n) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto zero = hn::Zero(d);
  size_t w = 0;
  for (; 64 * (w + 1) <= n; ++w) {
    const uint64_t kept = words[w] ^ invert;
    if (kept == kAll) continue;
    float* const x = values + 64 * w;
    if (kept == 0) {
      for (size_t j = 0; j < 64; j += lanes) hn::StoreU(zero, d, x + j);
      continue;
    }
    for (size_t j = 0; j < 64; j += lanes)
      hn::StoreU(hn::IfThenElseZero(mask_of(d, kept >> j), hn::LoadU(d, x + j)), d, x + j);
  }
  for (size_t i = 64 * w; i < n; ++i) {
    if (((words[w] ^ invert) >> (i % 64) & 1) == 0) values[i] = 0.0f;
  }
}

HWY_ATTR void compress_kernel(const uint64_t* words, const float* values, size_t n, float* out,
                              size_t kept) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const float* const end = out + kept;
  size_t w = 0;
  // A vector is stored whole: as long as 64 more values are to come, nothing beyond them is hit.
  for (; 64 * (w + 1) <= n && end - out >= 64; ++w) {
    const uint64_t word = words[w];
    if (word == 0) continue;
    const float* const x = values + 64 * w;
    if (word == kAll) {
      for (size_t j = 0; j < 64; j += lanes) hn::StoreU(hn::LoadU(d, x + j), d, out + j);
      out += 64;
      continue;
    }
    float* to = out;
    for (size_t j = 0; j < 64; j += lanes)
      to += hn::CompressStore(hn::LoadU(d, x + j), mask_of(d, word >> j), d, to);
    out = to;
  }
  for (; 64 * w < n; ++w) {
    for (uint64_t word = words[w]; word != 0; word &= word - 1)
      *out++ = values[64 * w + static_cast<size_t>(std::countr_zero(word))];
  }
}

#if HWY_TARGET == HWY_SCALAR

HWY_ATTR size_t expand_words(const uint64_t*, const float*&, const float*, float*, size_t) {
  return 0;
}

#else

using D8 = hn::CappedTag<float, 8>;

// How many of a byte's bits stand below each of its eight: where an expanding lane reads.
struct Places {
  alignas(8) uint8_t of[256][8];
};
constexpr Places make_places() {
  Places places{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    uint8_t below = 0;
    for (unsigned lane = 0; lane < 8; ++lane) {
      // An index must be one of the vector's even where the lane reads nothing.
      places.of[byte][lane] = below < 7 ? below : 7;
      if ((byte >> lane & 1) != 0) ++below;
    }
  }
  return places;
}
constexpr Places kPlaces = make_places();

// Whole words, as long as 64 more values are at hand; returns how many words.
HWY_ATTR size_t expand_words(const uint64_t* words, const float*& in, const float* end, float* out,
                             size_t n) {
  const D8 d;
  const hn::RebindToSigned<D8> di;
  const hn::Rebind<uint8_t, D8> d_bytes;
  const size_t lanes = hn::Lanes(d);
  size_t w = 0;
  for (; 64 * (w + 1) <= n && end - in >= 64; ++w) {
    const uint64_t word = words[w];
    if (word == 0) continue;
    float* const x = out + 64 * w;
    if (word == kAll) {
      for (size_t j = 0; j < 64; j += lanes) hn::StoreU(hn::LoadU(d, in + j), d, x + j);
      in += 64;
      continue;
    }
    for (size_t j = 0; j < 64; j += lanes) {
      const uint64_t bits = word >> j & low_bits(lanes);
      const auto places = hn::PromoteTo(di, hn::LoadU(d_bytes, kPlaces.of[bits]));
      const auto spread = hn::TableLookupLanes(hn::LoadU(d, in), hn::IndicesFromVec(d, places));
      hn::StoreU(hn::IfThenElseZero(mask_of(d, bits), spread), d, x + j);
      in += std::popcount(bits);
    }
  }
  return w;
}

#endif

HWY_ATTR void expand_kernel(const uint64_t* words, const float* in, size_t kept, float* out,
                            size_t n) {
  size_t w = expand_words(words, in, in + kept, out, n);
  for (; 64 * w < n; ++w) {
    for (uint64_t word = words[w]; word != 0; word &= word - 1)
      out[64 * w + static_cast<size_t>(std::countr_zero(word))] = *in++;
  }
}

HWY_ATTR void nonzero_kernel(const float* values, size_t n, uint64_t* words) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const size_t lanes = hn::Lanes(d);
  const auto zero = hn::Zero(du);
  size_t w = 0;
  for (; 64 * (w + 1) <= n; ++w) {
    uint64_t word = 0;
    for (size_t j = 0; j < 64; j += lanes) {
      // Bits and not numbers, so that a subnormal counts whatever the processor's mode.
      const auto bits = hn::ShiftLeft<1>(hn::BitCast(du, hn::LoadU(d, values + 64 * w + j)));
      uint8_t bytes[8] = {};
      hn::StoreMaskBits(du, hn::Ne(bits, zero), bytes);
      uint64_t part;
      std::memcpy(&part, bytes, 8);
      word |= (part & low_bits(lanes)) << j;
    }
    words[w] = word;
  }
  if (64 * w < n) words[w] = 0;
  for (size_t i = 64 * w; i < n; ++i) {
    const uint64_t bit = (std::bit_cast<uint32_t>(values[i]) << 1) != 0 ? 1 : 0;
    words[w] |= bit << (i % 64);
  }
}

}  // namespace espalier::prune::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::prune {

HWY_EXPORT(zero_unset_kernel);
HWY_EXPORT(compress_kernel);
HWY_EXPORT(expand_kernel);
HWY_EXPORT(nonzero_kernel);

void zero_unset(const uint64_t* words, uint64_t invert, float* values, size_t n) {
  HWY_DYNAMIC_DISPATCH(zero_unset_kernel)(words, invert, values, n);
}

void compress(const uint64_t* words, const float* values, size_t n, float* out, size_t kept) {
  HWY_DYNAMIC_DISPATCH(compress_kernel)(words, values, n, out, kept);
}

void expand_into_zeros(const uint64_t* words, const float* in, size_t kept, float* out, size_t n) {
  HWY_DYNAMIC_DISPATCH(expand_kernel)(words, in, kept, out, n);
}

void nonzero_bits(const float* values, size_t n, uint64_t* words) {
  HWY_DYNAMIC_DISPATCH(nonzero_kernel)(values, n, words);
}

}  // namespace espalier::prune
#endif

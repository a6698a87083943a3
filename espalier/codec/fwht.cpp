#include "espalier/codec/fwht.h"

#include <algorithm>
#include <bit>

#include "espalier/base/error.h"

// Scalable vectors cannot stand in arrays; NEON serves those machines.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "espalier/codec/fwht.cpp"
// The order matters.
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "espalier/codec/philox-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace espalier::codec::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr uint32_t kSignDomain = 0x5349474Eu;

// One level in plain code: also the whole transform where there are no vectors, or no room for
// them.
inline void plain_level(float* HWY_RESTRICT x, size_t n, size_t h) {
  for (size_t i = 0; i < n; i += 2 * h) {
    for (size_t j = i; j < i + h; ++j) {
      const float a = x[j], b = x[j + h];
      x[j] = a + b;
      x[j + h] = a - b;
    }
  }
}

#if HWY_TARGET == HWY_SCALAR

Rotation rotate_kernel(const float*, size_t, uint64_t, float, float*) { return {}; }

void fwht_kernel(float* x, size_t n, size_t block) {
  for (size_t i = 0; i < n; i += block) {
    for (size_t h = 1; h < block; h *= 2) plain_level(x + i, block, h);
  }
}

#else

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
constexpr size_t kLanes = HWY_MAX_BYTES >= 64 ? 16 : HWY_MAX_BYTES / 4;
// Registers decide how many vectors a pass keeps at hand.
constexpr size_t kFirstRadix = kLanes == 16 ? 16 : 8;
constexpr size_t kRadix = kLanes == 16 ? 16 : 8;
// A piece that stays in a small first-level cache is finished before the next one is begun.
constexpr size_t kPiece = 4096;

// Levels across the vectors v[0 … K−1], distance 1, 2, 4, … in units of vectors.
template <size_t K>
HWY_INLINE void across(V* v) {
#pragma GCC unroll 4
  for (size_t h = 1; h < K; h *= 2) {
#pragma GCC unroll 16
    for (size_t i = 0; i < K; ++i) {
      if ((i & h) != 0) continue;
      const V a = v[i], b = v[i + h];
      v[i] = hn::Add(a, b);
      v[i + h] = hn::Sub(a, b);
    }
  }
}

// Levels within a vector: the partner's value plus ±1 times the own one, which rounds as the sum or
// difference does.
HWY_INLINE V within(D d, V v, V sign1, V sign2, V sign4, V sign8) {
  v = hn::MulAdd(v, sign1, hn::Reverse2(d, v));
  v = hn::MulAdd(v, sign2, hn::Shuffle1032(v));
  if constexpr (kLanes == 8) v = hn::MulAdd(v, sign4, hn::ConcatLowerUpper(d, v, v));
#if HWY_MAX_BYTES >= 64
  if constexpr (kLanes == 16) {
    v = hn::MulAdd(v, sign4, hn::SwapAdjacentBlocks(v));
    v = hn::MulAdd(v, sign8, hn::ConcatLowerUpper(d, v, v));
  }
#endif
  (void)sign4, (void)sign8;
  return v;
}

// What rotation needs on the way of the first pass: signs before it, and the sum of the squares of
// what came in, which no large value or NaN leaves finite.
struct Signs {
  const float* in;
  uint64_t key;
  float scale;
  float energy;
};

// Levels 1 … K·lanes/2 of pieces of K vectors. With `ahead`, asks for the values that many behind.
template <size_t K, bool kSigned = false>
HWY_INLINE void first_pass(float* HWY_RESTRICT x, size_t n, size_t ahead, Signs* flip = nullptr) {
  const D d;
  HWY_ALIGN float signs[4][kLanes];
  for (size_t level = 0; level < 4; ++level) {
    for (size_t lane = 0; lane < kLanes; ++lane)
      signs[level][lane] = (lane >> level) & 1 ? -1.0f : 1.0f;
  }
  const V sign1 = hn::Load(d, signs[0]), sign2 = hn::Load(d, signs[1]);
  const V sign4 = hn::Load(d, signs[2]), sign8 = hn::Load(d, signs[3]);
  const hn::Repartition<uint32_t, D> du;
  constexpr size_t kColumns = 16 / kLanes;
  HWY_ALIGN uint32_t words[kSigned ? kLineWords : 1];
  V energy = hn::Zero(d);
  for (size_t i = 0; i < n; i += K * kLanes) {
    V v[K];
    if constexpr (kSigned) {
      if (i % (32 * kLineWords) == 0)
        philox_line<10>(flip->key, kSignDomain, i / (32 * kLineWords), words);
      hn::Vec<decltype(du)> bits[kColumns];
      for (size_t c = 0; c < kColumns; ++c) {
        const auto word = hn::Load(du, words + i % (32 * kLineWords) / 512 * 16 + c * kLanes);
        bits[c] = hn::ShiftLeftSame(word, static_cast<int>(i % 512 / 16));
      }
      const auto factor = hn::BitCast(du, hn::Set(d, flip->scale)), sign = hn::Set(du, 0x80000000u);
#pragma GCC unroll 16
      for (size_t k = 0; k < K; ++k) {
        auto& bit = bits[k % kColumns];
        const V signed_factor = hn::BitCast(d, hn::OrAnd(factor, bit, sign));
        bit = hn::Add(bit, bit);
        const V value = hn::Mul(hn::LoadU(d, flip->in + i + k * kLanes), signed_factor);
        energy = hn::MulAdd(value, value, energy);
        v[k] = within(d, value, sign1, sign2, sign4, sign8);
      }
      across<K>(v);
#pragma GCC unroll 16
      for (size_t k = 0; k < K; ++k) hn::StoreU(v[k], d, x + i + k * kLanes);
      continue;
    }
    if (ahead > 0) {
#pragma GCC unroll 16
      for (size_t k = 0; k < K; ++k) __builtin_prefetch(x + i + k * kLanes + ahead);
    }
#pragma GCC unroll 16
    for (size_t k = 0; k < K; ++k)
      v[k] = within(d, hn::LoadU(d, x + i + k * kLanes), sign1, sign2, sign4, sign8);
    across<K>(v);
#pragma GCC unroll 16
    for (size_t k = 0; k < K; ++k) hn::StoreU(v[k], d, x + i + k * kLanes);
  }
  if constexpr (kSigned) flip->energy = hn::GetLane(hn::SumOfLanes(d, energy));
}

// Levels h, 2h, …, K·h/2.
template <size_t K>
HWY_INLINE void pass(float* HWY_RESTRICT x, size_t n, size_t h) {
  const D d;
  for (size_t i = 0; i < n; i += K * h) {
    for (size_t j = i; j < i + h; j += kLanes) {
      V v[K];
#pragma GCC unroll 16
      for (size_t k = 0; k < K; ++k) v[k] = hn::LoadU(d, x + j + k * h);
      across<K>(v);
#pragma GCC unroll 16
      for (size_t k = 0; k < K; ++k) hn::StoreU(v[k], d, x + j + k * h);
    }
  }
}

// The last levels, from h on, of a whole block; finds the range of what leaves it.
template <size_t K>
HWY_INLINE Range last_pass(float* HWY_RESTRICT x, size_t h) {
  const D d;
  V low[2], high[2];
  low[0] = low[1] = hn::Set(d, hwy::HighestValue<float>());
  high[0] = high[1] = hn::Set(d, hwy::LowestValue<float>());
  for (size_t j = 0; j < h; j += kLanes) {
    V v[K];
#pragma GCC unroll 16
    for (size_t k = 0; k < K; ++k) {
      v[k] = hn::LoadU(d, x + j + k * h);
    }
    across<K>(v);
#pragma GCC unroll 16
    for (size_t k = 0; k < K; ++k) {
      low[k % 2] = hn::Min(low[k % 2], v[k]);
      high[k % 2] = hn::Max(high[k % 2], v[k]);
      hn::StoreU(v[k], d, x + j + k * h);
    }
  }
  // Which of two zeros is found depends on the order: −0 + 0 = +0 for all.
  return {hn::GetLane(hn::MinOfLanes(d, hn::Min(low[0], low[1]))) + 0.0f,
          hn::GetLane(hn::MaxOfLanes(d, hn::Max(high[0], high[1]))) + 0.0f};
}

// The remaining levels from h on, the short pass first so that the long ones have whole cache lines
// far apart.
void passes(float* x, size_t n, size_t h, size_t radix) {
  while (h < n) {
    const size_t k = std::min(radix, n / h);
    if (k == 16)
      pass<16>(x, n, h);
    else if (k == 8)
      pass<8>(x, n, h);
    else if (k == 4)
      pass<4>(x, n, h);
    else
      pass<2>(x, n, h);
    h *= k;
  }
}

void fwht_piece(float* x, size_t n, size_t ahead) {
  if (n < 4 * kLanes) {
    for (size_t h = 1; h < n; h *= 2) plain_level(x, n, h);
    return;
  }
  const size_t k = std::min(kFirstRadix, n / kLanes);
  if (k == 16)
    first_pass<16>(x, n, ahead);
  else if (k == 8)
    first_pass<8>(x, n, ahead);
  else
    first_pass<4>(x, n, ahead);
  passes(x, n, k * kLanes, kRadix);
}

Rotation rotate_kernel(const float* in, size_t n, uint64_t key, float scale, float* out) {
  Rotation result;
  size_t h = kFirstRadix * kLanes;
  if (n < 1024 || n > kPiece) return result;
  Signs signs{in, key, scale, 0};
  first_pass<kFirstRadix, true>(out, n, 0, &signs);
  while (n / h > kRadix) {
    pass<kRadix>(out, n, h);
    h *= kRadix;
  }
  if (n / h == 16)
    result.range = last_pass<kRadix>(out, h);
  else if (n / h == 8)
    result.range = last_pass<8>(out, h);
  else if (n / h == 4)
    result.range = last_pass<4>(out, h);
  else
    result.range = last_pass<2>(out, h);
  result.done = true;
  result.small = signs.energy <= hwy::HighestValue<float>();
  return result;
}

void fwht_kernel(float* x, size_t n, size_t block) {
  const size_t piece = std::min(block, kPiece);
  for (size_t i = 0; i < n; i += block) {
    for (size_t j = i; j < i + block; j += piece)
      fwht_piece(x + j, piece, j + piece < n ? piece : 0);
    // Strides of whole pieces share cache sets: eight of them fit.
    if (block > piece) passes(x + i, block, piece, 8);
  }
}

#endif

void flip_signs_kernel(const float* in, size_t n, uint64_t key, float scale, float* out) {
  const hn::CappedTag<uint32_t, 16> du;
  const hn::Rebind<float, decltype(du)> df;
  const size_t lanes = hn::Lanes(du);
  HWY_ALIGN uint32_t words[kLineWords];
  // A line has 2,048 bits. Value 512·k + 16·t + j of its stretch takes bit 31 − t of word 16·k + j.
  for (size_t begin = 0; begin < n; begin += 32 * kLineWords) {
    philox_line<10>(key, kSignDomain, begin / (32 * kLineWords), words);
    for (size_t k = 0; k < 4 && begin + 512 * k < n; ++k) {
      const size_t base = begin + 512 * k;
      if (base + 512 <= n) {
        const auto factor = hn::Set(df, scale);
        const auto sign = hn::Set(du, 0x80000000u);
        for (size_t j = 0; j < 16; j += lanes) {
          auto bits = hn::Load(du, words + 16 * k + j);
          for (size_t t = 0; t < 32; ++t) {
            const size_t i = base + 16 * t + j;
            const auto value = hn::Mul(hn::LoadU(df, in + i), factor);
            hn::StoreU(hn::Xor(value, hn::BitCast(df, hn::And(bits, sign))), df, out + i);
            bits = hn::Add(bits, bits);
          }
        }
      } else {
        for (size_t i = base; i < n; ++i) {
          const uint32_t bits = words[16 * k + (i & 15)] << ((i - base) >> 4);
          out[i] =
              std::bit_cast<float>(std::bit_cast<uint32_t>(in[i] * scale) ^ (bits & 0x80000000u));
        }
      }
    }
  }
}

void scale_kernel(float* x, size_t n, float factor) {
  const hn::CappedTag<float, 16> d;
  const size_t lanes = hn::Lanes(d);
  const auto f = hn::Set(d, factor);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Mul(hn::LoadU(d, x + i), f), d, x + i);
  for (; i < n; ++i) x[i] *= factor;
}

uint32_t max_magnitude_kernel(const float* x, size_t n) {
  const hn::CappedTag<int32_t, 16> di;
  const hn::Rebind<float, decltype(di)> df;
  const size_t lanes = hn::Lanes(di);
  const auto mask = hn::Set(di, 0x7fffffff);
  auto most0 = hn::Zero(di), most1 = hn::Zero(di);
  size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    most0 = hn::Max(most0, hn::And(mask, hn::BitCast(di, hn::LoadU(df, x + i))));
    most1 = hn::Max(most1, hn::And(mask, hn::BitCast(di, hn::LoadU(df, x + i + lanes))));
  }
  auto most = static_cast<uint32_t>(hn::GetLane(hn::MaxOfLanes(di, hn::Max(most0, most1))));
  for (; i < n; ++i) most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  return most;
}

}  // namespace espalier::codec::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::codec {

HWY_EXPORT(fwht_kernel);
HWY_EXPORT(flip_signs_kernel);
HWY_EXPORT(rotate_kernel);
HWY_EXPORT(scale_kernel);
HWY_EXPORT(max_magnitude_kernel);

void fwht(std::span<float> x) {
  ESPALIER_CHECK(std::has_single_bit(x.size()), x.size());
  HWY_DYNAMIC_DISPATCH(fwht_kernel)(x.data(), x.size(), x.size());
}

void fwht_blocks(std::span<float> x, size_t block) {
  ESPALIER_CHECK(std::has_single_bit(block) && x.size() % block == 0, x.size(), " in ", block);
  HWY_DYNAMIC_DISPATCH(fwht_kernel)(x.data(), x.size(), block);
}

void flip_signs(std::span<const float> in, Key key, float scale, std::span<float> out) {
  ESPALIER_CHECK(in.size() <= out.size(), in.size(), " into ", out.size());
  HWY_DYNAMIC_DISPATCH(flip_signs_kernel)(in.data(), in.size(), key.value(), scale, out.data());
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(in.size()), out.end(), 0.0f);
}

Rotation rotate(std::span<const float> in, Key key, float scale, std::span<float> out) {
  ESPALIER_CHECK(in.size() == out.size(), in.size(), " into ", out.size());
  return HWY_DYNAMIC_DISPATCH(rotate_kernel)(in.data(), in.size(), key.value(), scale, out.data());
}

void scale(std::span<float> x, float factor) {
  HWY_DYNAMIC_DISPATCH(scale_kernel)(x.data(), x.size(), factor);
}

uint32_t max_magnitude_bits(std::span<const float> x) {
  return HWY_DYNAMIC_DISPATCH(max_magnitude_kernel)(x.data(), x.size());
}

}  // namespace espalier::codec
#endif

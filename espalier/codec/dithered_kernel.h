#pragma once

#include <cstddef>
#include <cstdint>

// The vector inner loops of DitheredCode; dithered_test.cpp has the plain formulas.
//
// A dither word w gives u = ((int32(w) >> 8) + ½)·2⁻²⁴ in (−½, ½). Tables exist for u ≥ 0 only: a
// negative u mirrors its coordinate (m = −k). The context is the bin of |u| out of 2^bin_bits equal
// ones of [0, ½).
namespace espalier::codec::detail {

inline constexpr size_t kDitherSlack = 64;  // buffers have this many elements beyond the block

struct DitheredLayout {
  int raw_bits;  // low bits of m that are sent as they are
  int reach;     // high parts in [−reach, reach] have symbols; 2·reach + 1 is the escape
  int bin_bits;
};

inline constexpr size_t kDitherLine = 64;

// Words of whole lines (philox-inl.h, 10 rounds, domain 0) from `first_line` on, n of them rounded
// up (within kDitherSlack): coordinate i takes word (i mod 64) / 16 of Philox block 16·(i / 64) + i
// mod 16, which is word 4·block + … of Stream(key).
void dither_words(uint64_t key, uint64_t first_line, uint32_t* words, size_t n);

// joint = context << 8 | symbol; raw: the low bits of m (only when raw_bits > 0); m: mirrored
// integers. `inverse` is 1 / (scale·step). Returns whether there are escapes. Reads and writes up
// to kDitherSlack elements beyond n.
bool dithered_quantize(const DitheredLayout& layout, const float* x, const uint32_t* words,
                       float inverse, size_t n, uint16_t* joint, uint8_t* raw, int32_t* m);

void dithered_contexts(int bin_bits, const uint32_t* words, size_t n, uint8_t* contexts);

// out = (k − u)·scale, where scale is block scale·step. Returns whether there are escapes, whose
// values are to be replaced.
bool dithered_rebuild(const DitheredLayout& layout, const uint8_t* symbols, const uint8_t* raw,
                      const uint32_t* words, float scale, size_t n, float* out);

// The same for one coordinate.
float dithered_rebuild_one(int32_t m, uint32_t word, float scale);

}  // namespace espalier::codec::detail

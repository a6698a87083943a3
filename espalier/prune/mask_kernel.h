#pragma once

#include <cstddef>
#include <cstdint>

// The loops over values of mask.h, compiled for every instruction set; all give the same bits. Bit
// i % 64 of words[i / 64] belongs to value i of n; bits past the end are 0 (apply: ignored).
namespace espalier::prune {

// values[i] = +0 where the bit, flipped when `invert` is all ones, is 0. Words of kept values alone
// cost one look.
void zero_unset(const uint64_t* words, uint64_t invert, float* values, size_t n);
// The values whose bits are set, one after the other; out: as many as there are set bits.
void compress(const uint64_t* words, const float* values, size_t n, float* out, size_t kept);
// Back: out[i] = the next of `in` where the bit is set; out is +0 everywhere else already.
void expand_into_zeros(const uint64_t* words, const float* in, size_t kept, float* out, size_t n);
// Bit i: whether value i is neither 0 nor −0.
void nonzero_bits(const float* values, size_t n, uint64_t* words);

}  // namespace espalier::prune

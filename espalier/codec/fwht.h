#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "espalier/base/random.h"
#include "espalier/codec/range.h"

// The fast Walsh–Hadamard transform and the random signs that make it a random rotation.
// Vectorised for SSE4, AVX2, AVX-512 and NEON with dispatch at run time; all give the same bits:
// the levels h = 1, 2, 4, … are done in this order on every path, each sum and difference rounded
// once.
namespace espalier::codec {

// x ← H·x without normalisation, H[i][j] = (−1)^popcount(i & j). x.size() is a power of two.
void fwht(std::span<float> x);
// The same for every `block` values of x, a power of two that divides x.size().
void fwht_blocks(std::span<float> x, size_t block);

// out[i] = scale·s_i·in[i] for i < in.size(), 0 behind. The signs s_i are bits of a Philox4x32-10
// stream of `key` (not the words that a Stream of this key draws), so the receiver makes them
// again. in and out may be the same memory; in.size() ≤ out.size().
void flip_signs(std::span<const float> in, Key key, float scale, std::span<float> out);

// What rotate() has seen of a block on its way.
struct Rotation {
  bool done = false;   // false: the block has no fast way, nothing has happened
  Range range;         // of out
  bool small = false;  // every value of in is finite and below 2^64/scale; false says nothing
};

// flip_signs() and fwht() of one block at once, with the same bits, where the block's size and the
// machine allow. in, out: equally many values.
Rotation rotate(std::span<const float> in, Key key, float scale, std::span<float> out);

// x ← factor·x: the plainest pass over memory, which the others are measured against.
void scale(std::span<float> x, float factor);

// The largest magnitude in x as the bits of a float; infinities and NaN are at least 0x7f800000.
uint32_t max_magnitude_bits(std::span<const float> x);

}  // namespace espalier::codec

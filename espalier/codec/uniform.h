#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "espalier/base/random.h"
#include "espalier/codec/range.h"

// Stochastic uniform quantization to 2^bits levels between two ends, with dense packing: the kernel
// of the stage `quantize`. Value x becomes v = (x − low)·(2^bits − 1)/(high − low) and is rounded
// up with probability v − ⌊v⌋, else down. The probability is the nearest multiple of 2^-min(16, 23
// − bits), as fine as float32 knows v, drawn from 16 bits of a Philox4x32-7 stream of the key:
// seven rounds are the fewest that pass BigCrush (Salmon et al. 2011). Vectorised with dispatch at
// run time; the same bits on every target.
//
// Packing. Every 512 codes take 16·bits little-endian u32 words: code 16·r + j stands in the bits
// r·bits … of the 32·bits-bit number whose words are j, 16 + j, 32 + j, … The last n mod 512 codes
// follow as one bit stream, least significant bit first.
namespace espalier::codec {

// ⌈n·bits/8⌉ bytes.
size_t packed_bytes(size_t n, int bits);

Range range_of(std::span<const float> x);

// bits in [1, 16]; range.low ≤ x ≤ range.high, all within ±kMaxMagnitude; out:
// packed_bytes(x.size(), bits) bytes.
// Up to six bits, as many of the `upcoming` values are asked for meanwhile.
void quantize_uniform(std::span<const float> x, Range range, int bits, Key key, uint8_t* out,
                      std::span<const float> upcoming = {});
// in: packed_bytes(out.size(), bits) bytes. Decoded values are in [low, high] up to float rounding.
void dequantize_uniform(const uint8_t* in, Range range, int bits, std::span<float> out);

}  // namespace espalier::codec

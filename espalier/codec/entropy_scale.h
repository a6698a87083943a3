#pragma once

#include <cstdint>
#include <span>

// The scale of a block: 16 bits, a float32 without its sign and with an 8-bit mantissa (relative
// error ≤ 2^-9.0 · ½). bf16 spends a bit on a sign that a scale does not have; that bit is a
// mantissa bit here.
namespace espalier::codec {

// Code 0 is zero: the block is lost, which also befalls scales below 2^-120. Scales above 2^120
// become 2^120. So reciprocals of scales and their multiples by a few thousand stay finite. The
// nearest code, ties away from zero.
uint16_t encode_scale(double scale);
// Throws Error for a code that encode_scale cannot give.
float decode_scale(uint16_t code);

// Sums over a block in double, in 16 interleaved stripes added in a fixed order: the same bits on
// every machine.
double sum_of_squares(std::span<const float> x);
double dot(std::span<const float> x, std::span<const float> y);

}  // namespace espalier::codec

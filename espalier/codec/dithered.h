#pragma once

#include <cstdint>
#include <span>

#include "espalier/base/bytes.h"
#include "espalier/base/random.h"
#include "espalier/codec/dithered_kernel.h"
#include "espalier/codec/entropy.h"

// Entropy-coded dithered quantization (Ziv 1985; Zamir and Feder 1992) of rotated coordinates.
//
// A block x is divided by its coded root mean square σ. Coordinate i takes the dither u_i uniform
// in [−½, ½) from the key:
//   k_i = rint(x_i / (σΔ) + u_i),  receiver: x̂_i = (k_i − u_i)·σΔ.
// The error is uniform in [−σΔ/2, σΔ/2) and independent of x, whatever x is: exactly unbiased, E‖x
// − x̂‖² = d·σ²Δ²/12, with one rotation or none. Only the rate depends on x being Gaussian. The
// integers are coded with static tables of N(0,1) for 8 bins of the dither (mirrored: 4 tables),
// which costs at most .004 bit against knowing u exactly. Integers beyond the tables are escapes.
// Senders may share a rotation and must not share a dither key.
// How we differ: tables conditioned on dither bins instead of one code per dither value,
// counter-based dither that the receiver computes again (dithered_kernel.h says which word of
// Stream(key) a coordinate takes), 16-bit block scales.
//
// Bytes: per block a scale (u16; 0 for a block of zeros, which takes nothing more); if any is not
// 0, the rANS stream of the other blocks; the escapes.
namespace espalier::codec {

// Immutable; any number of threads may use one. Construction takes milliseconds (it solves for the
// step).
class DitheredCode {
 public:
  // Nominal rate on Gaussian coordinates, in [0.25, 8] bits.
  explicit DitheredCode(double bits);

  double step() const { return step_; }
  // vNMSE: step²/12.
  double expected_error() const { return step_ * step_ / 12; }

  static size_t max_encoded_bytes(size_t n, size_t block);
  // Appends at most max_encoded_bytes. block: a multiple of 64, at most 4096. Throws Error when a
  // value is NaN or infinite.
  void encode(std::span<const float> x, size_t block, Key key, Bytes& out) const;
  // `in` must be exactly one encoding of out.size() coordinates; throws Error otherwise.
  void decode(std::span<const uint8_t> in, size_t block, Key key, std::span<float> out) const;

 private:
  double step_;
  detail::DitheredLayout layout_;
  EntropyModel model_;
};

}  // namespace espalier::codec

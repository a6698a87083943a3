#pragma once

#include <cstdint>
#include <span>

#include "espalier/base/bytes.h"
#include "espalier/codec/entropy.h"
#include "espalier/codec/trellis_train.h"

// Dependent scalar quantization with a 4-state trellis, entropy-coded: about half the error of EDEN
// at 4 bits, biased. For the downlink and for uplinks with error feedback.
//
// Two quantizers share the step Δ: Q0 rebuilds 2kΔ, Q1 rebuilds (2k − sgn k)Δ. States 0 and 1 use
// Q0, 2 and 3 use Q1; the parity of k moves the state: {0,2}, {2,0}, {1,3}, {3,1} (Schwarz et al.,
// DCC 2019; ISO/IEC 15938-17, as in VVC). The encoder is a Viterbi search for the least Σ error² +
// λ·bits; the receiver only follows the parities. How we differ: static tables per state instead of
// adaptive binary contexts; 32 independent interleaved trellises (coordinate i belongs to trellis i
// mod 32), so that both sides are vector code; integer arithmetic in search and training, so that
// tables and bytes are the same on every machine.
//
// Bytes: per block a scale (u16; 0 for zeros, which take nothing more); the rANS stream of the
// other blocks; the escapes.
namespace espalier::codec {

// Immutable; any number of threads may use one. Construction trains the tables on Gaussian
// quantiles (some tens of milliseconds).
class TrellisCode {
 public:
  // Nominal rate on Gaussian coordinates, in [0.25, 7] bits; reached within .02 bit.
  explicit TrellisCode(double bits);

  // Δ on coordinates of unit variance.
  double step() const { return design_.step; }
  // vNMSE and bits per coordinate (block scales aside) on the training quantiles.
  double expected_error() const { return design_.error; }
  double expected_bits() const { return design_.rate; }

  static size_t max_encoded_bytes(size_t n, size_t block);
  // Appends at most max_encoded_bytes. block: a multiple of 64, at most 4096. Throws Error when a
  // value is NaN or infinite.
  void encode(std::span<const float> x, size_t block, Bytes& out) const;
  // `in` must be exactly one encoding of out.size() coordinates; throws Error otherwise.
  void decode(std::span<const uint8_t> in, size_t block, std::span<float> out) const;

 private:
  detail::TrellisDesign design_;
  EntropyModel model_;
};

}  // namespace espalier::codec

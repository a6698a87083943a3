#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/codec/eden_pack.h"

// EDEN: each rotated coordinate to the nearest Lloyd–Max centroid of N(0,1), one scale per block
// (Vargaftik et al., "EDEN: Communication-efficient and robust distributed mean estimation", ICML
// 2022); one bit is DRIVE (Vargaftik et al., NeurIPS 2021).
//
// A block x of length d is normalised to unit variance, q = centroid of each coordinate, and the
// receiver forms S·q with
//   unbiased  S = ‖x‖² / ⟨x, q⟩      biased (least error)  S = ⟨x, q⟩ / ‖q‖².
// Unbiased holds over a uniformly random rotation of the block; one Hadamard rotation is not that
// for sparse or peaky blocks, two are in practice (see the tests). How we differ: blocks, a 16-bit
// scale (entropy_scale.h), any number of levels L ≥ 2.
//
// Bytes: the scales of all blocks (u16; 0 for a block of zeros); then per block its indices,
// densely packed (eden_pack.h): log2 L bits each for a power of two, else nearly (L = 3: 1.6 bits,
// L = 6: 2.59).
namespace espalier::codec {

enum class EdenScale { kUnbiased, kBiased };

// Immutable; any number of threads may use one.
class EdenCode {
 public:
  // bits in [1, 8]: round(2^bits) levels.
  EdenCode(double bits, EdenScale scale);

  size_t levels() const { return levels_; }
  double nominal_bits() const;  // log2 levels
  // vNMSE on Gaussian coordinates (block scale and block length aside): the Lloyd–Max error D
  // biased, D / (1 − D) unbiased.
  double expected_error() const;

  // Exact size for n coordinates in blocks of `block` (the last may be shorter).
  size_t encoded_bytes(size_t n, size_t block) const;
  // Appends encoded_bytes(x.size(), block) bytes. block: at most 4096. Throws Error when a value is
  // NaN or infinite.
  void encode(std::span<const float> x, size_t block, Bytes& out) const;
  // `in` must be exactly encoded_bytes(out.size(), block) long; throws Error otherwise and on
  // impossible scales or indices.
  void decode(std::span<const uint8_t> in, size_t block, std::span<float> out) const;

 private:
  EdenScale scale_;
  size_t levels_;
  IndexPacking packing_;
  double mse_;
  std::vector<float> centroids_, thresholds_;
  std::vector<int32_t> grid_;
};

}  // namespace espalier::codec

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/base/bytes.h"

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
// Bytes: per block a scale (u16); then the indices of all blocks densely packed. A power of two of
// levels takes log2 L bits per index; otherwise groups of g indices are one base-L number in w
// bits, (g, w) the least wasteful with w ≤ 56 (L = 3: 1.6 bits, L = 6: 2.59).
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
  // Appends encoded_bytes(x.size(), block) bytes. Throws Error when a value is NaN or infinite.
  void encode(std::span<const float> x, size_t block, Bytes& out) const;
  // `in` must be exactly encoded_bytes(out.size(), block) long; throws Error otherwise and on
  // impossible scales or indices.
  void decode(std::span<const uint8_t> in, size_t block, std::span<float> out) const;

 private:
  void quantize_block(std::span<const float> x, uint8_t* indices, uint16_t& scale) const;

  EdenScale scale_;
  size_t levels_;
  double mse_;
  size_t group_indices_, group_bits_;
  std::vector<float> centroids_, thresholds_;
  std::vector<uint8_t> grid_;  // first guess of the index, by the coordinate in 1/64 units
};

}  // namespace espalier::codec

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

// Dense packing of indices below any number of levels.
namespace espalier::codec {

// L = 2^b: b bits per index, low bits first. Other L: groups of `group` indices as one base-L
// number (first index least significant) in `group_bits` bits; the last, shorter group in the
// fewest bits that hold it. Bytes are filled from their low bits.
class IndexPacking {
 public:
  explicit IndexPacking(size_t levels);  // 2 to 256

  size_t bytes(size_t n) const;
  // out: bytes(indices.size()) bytes; every index < levels.
  void pack(std::span<const uint8_t> indices, std::span<uint8_t> out) const;
  // in: bytes(indices.size()) bytes, anything; false when they are not the packing of any indices.
  bool unpack(std::span<const uint8_t> in, std::span<uint8_t> indices) const;

  double bits_per_index() const {
    return static_cast<double>(group_bits_) / static_cast<double>(group_);
  }

 private:
  size_t levels_, group_, group_bits_;
  bool power_of_two_;
};

}  // namespace espalier::codec

#include "espalier/codec/eden_pack.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "espalier/base/error.h"

namespace espalier::codec {
namespace {

constexpr size_t kMaxGroupBits =
    56;  // with up to 7 bits before it a group still fits a 64-bit accumulator

// Fewest bits that hold `count` base-`levels` digits; levels^count < 2^63.
size_t bits_for(size_t levels, size_t count) {
  uint64_t largest = 0;
  for (size_t i = 0; i < count; ++i) largest = largest * levels + (levels - 1);
  return static_cast<size_t>(std::bit_width(largest));
}

// Eight b-bit indices, one per byte of `lanes`, moved together: bytes to pairs, pairs to fours,
// fours to eight.
uint64_t squeeze(uint64_t lanes, size_t b) {
  lanes = (lanes & 0x00FF00FF00FF00FFu) | (lanes & 0xFF00FF00FF00FF00u) >> (8 - b);
  lanes = (lanes & 0x0000FFFF0000FFFFu) | (lanes & 0xFFFF0000FFFF0000u) >> (16 - 2 * b);
  return (lanes & 0x00000000FFFFFFFFu) | (lanes & 0xFFFFFFFF00000000u) >> (32 - 4 * b);
}

uint64_t spread(uint64_t word, size_t b) {
  const auto low_bits = [](size_t bits) {
    return bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  };
  word = (word & low_bits(4 * b)) | (word & (low_bits(4 * b) << (4 * b))) << (32 - 4 * b);
  const uint64_t two = low_bits(2 * b) * 0x0000000100000001u;
  word = (word & two) | (word & (two << (2 * b))) << (16 - 2 * b);
  const uint64_t one = low_bits(b) * 0x0001000100010001u;
  return (word & one) | (word & (one << b)) << (8 - b);
}

}  // namespace

IndexPacking::IndexPacking(size_t levels)
    : levels_(levels), power_of_two_(std::has_single_bit(levels)) {
  ESPALIER_CHECK(levels >= 2 && levels <= 256, levels);
  group_ = 1;
  group_bits_ = bits_for(levels, 1);
  if (power_of_two_) return;
  for (size_t group = 2;; ++group) {
    const size_t bits = bits_for(levels, group);
    if (bits > kMaxGroupBits) break;
    if (bits * group_ < group_bits_ * group) {
      group_ = group;
      group_bits_ = bits;
    }
  }
}

size_t IndexPacking::bytes(size_t n) const {
  const size_t bits =
      n / group_ * group_bits_ + (n % group_ == 0 ? 0 : bits_for(levels_, n % group_));
  return (bits + 7) / 8;
}

void IndexPacking::pack(std::span<const uint8_t> indices, std::span<uint8_t> out) const {
  ESPALIER_CHECK(out.size() == bytes(indices.size()), out.size());
  size_t i = 0;
  uint8_t* byte = out.data();
  if (power_of_two_) {
    for (; i + 8 <= indices.size(); i += 8, byte += group_bits_) {
      uint64_t lanes;
      std::memcpy(&lanes, indices.data() + i, 8);
      const uint64_t word = squeeze(lanes, group_bits_);
      std::memcpy(byte, &word, group_bits_);
    }
  }
  uint64_t pending = 0;
  size_t pending_bits = 0;
  while (i < indices.size()) {
    const size_t count = std::min(group_, indices.size() - i);
    uint64_t value = 0;
    for (size_t j = count; j-- > 0;) value = value * levels_ + indices[i + j];
    pending |= value << pending_bits;
    pending_bits += count == group_ ? group_bits_ : bits_for(levels_, count);
    i += count;
    for (; pending_bits >= 8; pending_bits -= 8, pending >>= 8)
      *byte++ = static_cast<uint8_t>(pending);
  }
  if (pending_bits > 0) *byte++ = static_cast<uint8_t>(pending);
}

bool IndexPacking::unpack(std::span<const uint8_t> in, std::span<uint8_t> indices) const {
  ESPALIER_CHECK(in.size() == bytes(indices.size()), in.size());
  size_t i = 0;
  const uint8_t* byte = in.data();
  if (power_of_two_) {
    for (; i + 8 <= indices.size(); i += 8, byte += group_bits_) {
      uint64_t word = 0;
      std::memcpy(&word, byte, group_bits_);
      const uint64_t lanes = spread(word, group_bits_);
      std::memcpy(indices.data() + i, &lanes, 8);
    }
  }
  uint64_t pending = 0;
  size_t pending_bits = 0;
  bool valid = true;
  while (i < indices.size()) {
    const size_t count = std::min(group_, indices.size() - i);
    const size_t bits = count == group_ ? group_bits_ : bits_for(levels_, count);
    for (; pending_bits < bits; pending_bits += 8) pending |= uint64_t{*byte++} << pending_bits;
    uint64_t value = pending & ((uint64_t{1} << bits) - 1);
    for (size_t j = 0; j < count; ++j, value /= levels_)
      indices[i + j] = static_cast<uint8_t>(value % levels_);
    valid &= value == 0;
    pending >>= bits;
    pending_bits -= bits;
    i += count;
  }
  return valid && pending == 0;
}

}  // namespace espalier::codec

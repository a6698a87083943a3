#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>

#include "espalier/base/bytes.h"

// An adaptive binary arithmetic coder in 64 bits: the bytes are one number in [0, 1), and every bit
// narrows the interval in which it lies. An interval is renormalized by 32 bits at a time, so a
// probability of 16 bits is met to better than one part in 65536.
//
// The end of the number is the shortest that lies in the last interval, without zero bytes at its
// end, and finish() of the decoder checks just that: one string of bits, one string of bytes.
namespace espalier::prune {

// An estimate of the probability that the next bit is 1, from the bits before: their mean at first,
// later one in which the last 2^10 or so count.
class BitModel {
 public:
  BitModel() = default;
  // Starts as if `confidence` bits had been seen with this share of ones.
  BitModel(double share, uint32_t confidence) : seen_(confidence) {
    const auto p = static_cast<int64_t>(share * 0x1p32);
    probability_ = static_cast<uint32_t>(p < kLowest ? kLowest : p > kHighest ? kHighest : p);
  }

  uint64_t probability16() const { return probability_ >> 16; }
  void update(uint64_t bit) {
    const int64_t target = bit != 0 ? kHighest : kLowest;
    const int64_t change = (target - int64_t{probability_}) * kRates[seen_] >> 16;
    probability_ = static_cast<uint32_t>(int64_t{probability_} + change);
    seen_ += seen_ < kMostSeen ? 1 : 0;
  }

 private:
  static constexpr uint32_t kMostSeen = 1023;
  // No bit is ever certain: 2^-13, hence .0002 bits for the likeliest.
  static constexpr int64_t kLowest = int64_t{8} << 16, kHighest = (int64_t{65536 - 8} << 16) - 1;
  static constexpr std::array<int64_t, kMostSeen + 1> kRates = [] {
    std::array<int64_t, kMostSeen + 1> rates{};
    for (uint32_t seen = 0; seen <= kMostSeen; ++seen) rates[seen] = (2 * 65536) / (2 * seen + 3);
    return rates;
  }();

  uint32_t probability_ = uint32_t{1} << 31;
  uint32_t seen_ = 0;
};

// What the last bytes add to `low`: the least that leaves as few bytes as possible.
inline uint64_t shortest_end(uint64_t low, uint64_t range, unsigned& bytes) {
  for (bytes = 0; bytes < 8; ++bytes) {
    const uint64_t below = bytes == 0 ? ~uint64_t{0} : ~uint64_t{0} >> (8 * bytes);
    const uint64_t add = (0 - low) & below;
    if (add < range) return add;
  }
  return 0;
}

class BinaryEncoder {
 public:
  // Appends to `out`.
  explicit BinaryEncoder(Bytes& out) : out_(out), begin_(out.size()), at_(out.size()) {}

  uint64_t code(uint64_t bit, BitModel& model) {
    const uint64_t bound = (range_ >> 16) * model.probability16();
    const uint64_t zero = bit - 1;  // all ones for a 0
    const uint64_t before = low_;
    low_ += bound & zero;
    range_ = bit != 0 ? bound : range_ - bound;
    if (low_ < before) [[unlikely]]
      carry();
    if (range_ < kLeast) {
      if (out_.size() < at_ + 8) out_.resize(2 * out_.size() + 64);
      const uint32_t top = __builtin_bswap32(static_cast<uint32_t>(low_ >> 32));
      std::memcpy(out_.data() + at_, &top, 4);
      at_ += 4;
      low_ <<= 32;
      range_ <<= 32;
    }
    model.update(bit);
    return bit;
  }

  // Writes the end; once, at last.
  void finish() {
    unsigned bytes = 0;
    const uint64_t before = low_;
    low_ += shortest_end(low_, range_, bytes);
    if (low_ < before) carry();
    out_.resize(at_);
    for (unsigned i = 0; i < bytes; ++i) out_.push_back(static_cast<uint8_t>(low_ >> (56 - 8 * i)));
    while (out_.size() > begin_ && out_.back() == 0) out_.pop_back();
  }

 private:
  static constexpr uint64_t kLeast = uint64_t{1} << 32;

  // The number stays below 1, so a carry always ends within the bytes written.
  void carry() {
    for (size_t i = at_; i > begin_;) {
      if (++out_[--i] != 0) return;
    }
  }

  Bytes& out_;
  size_t begin_, at_;
  uint64_t low_ = 0, range_ = ~uint64_t{0};
};

class BinaryDecoder {
 public:
  // Never reads outside `bytes`; behind them there are zeros.
  explicit BinaryDecoder(std::span<const uint8_t> bytes) : bytes_(bytes) {
    code_ = next() << 32;
    code_ |= next();
    in_range_ = code_ < range_;  // and then it stays there
  }

  uint64_t code(uint64_t, BitModel& model) {
    const uint64_t bound = (range_ >> 16) * model.probability16();
    const uint64_t bit = code_ < bound ? 1 : 0;
    const uint64_t skip = bound & (bit - 1);
    code_ -= skip;
    low_ += skip;
    range_ = bit != 0 ? bound : range_ - bound;
    if (range_ < kLeast) {
      code_ = code_ << 32 | next();
      low_ <<= 32;
      range_ <<= 32;
    }
    model.update(bit);
    return bit;
  }

  // Whether the bytes are exactly what the encoder writes for the bits decoded.
  bool finish() const {
    if (!bytes_.empty() && bytes_.back() == 0) return false;
    unsigned bytes = 0;
    return in_range_ && at_ >= bytes_.size() && code_ == shortest_end(low_, range_, bytes);
  }

 private:
  static constexpr uint64_t kLeast = uint64_t{1} << 32;

  uint64_t next() {
    uint32_t word = 0;
    if (at_ < bytes_.size()) {
      const size_t left = bytes_.size() - at_;
      std::memcpy(&word, bytes_.data() + at_, left < 4 ? left : 4);
    }
    at_ += 4;
    return __builtin_bswap32(word);
  }

  std::span<const uint8_t> bytes_;
  size_t at_ = 0;
  uint64_t code_ = 0, low_ = 0, range_ = ~uint64_t{0};
  bool in_range_ = true;
};

}  // namespace espalier::prune

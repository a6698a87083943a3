#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "espalier/base/simd.h"

// Ranges of a bit string whose bit i is bit i % 64 of words[i / 64].
namespace espalier::prune {

inline size_t num_words(size_t bits) { return (bits + 63) / 64; }

// The lowest `count` ≤ 64 bits set.
inline uint64_t low_bits(size_t count) {
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// Calls visit(word number, bits of it) for every word that [begin, end) touches.
template <class Visit>
void for_each_word(size_t begin, size_t end, Visit&& visit) {
  while (begin < end) {
    const size_t stop = std::min(end, (begin / 64 + 1) * 64);
    visit(begin / 64, low_bits(stop - begin) << (begin % 64));
    begin = stop;
  }
}

// Number of set bits among [begin, end).
uint64_t count_bits(std::span<const uint64_t> words, size_t begin, size_t end);

inline bool any_bits(std::span<const uint64_t> words, size_t begin, size_t end) {
  uint64_t found = 0;
  for_each_word(begin, end, [&](size_t w, uint64_t bits) { found |= words[w] & bits; });
  return found != 0;
}

inline void set_bits(std::span<uint64_t> words, size_t begin, size_t end) {
  for_each_word(begin, end, [&](size_t w, uint64_t bits) { words[w] |= bits; });
}

inline void clear_bits(std::span<uint64_t> words, size_t begin, size_t end) {
  for_each_word(begin, end, [&](size_t w, uint64_t bits) { words[w] &= ~bits; });
}

// The `count` ≤ 64 bits from `begin` on, which the string has.
inline uint64_t bits_at(std::span<const uint64_t> words, size_t begin, size_t count) {
  if (count == 0) return 0;
  const size_t shift = begin % 64;
  uint64_t bits = words[begin / 64] >> shift;
  if (shift + count > 64) bits |= words[begin / 64 + 1] << (64 - shift);
  return bits & low_bits(count);
}

// Writes a bit string from its beginning, into words that are 0.
class BitWriter {
 public:
  explicit BitWriter(std::span<uint64_t> words) : words_(words) {}
  // The low `count` ≤ 64 bits; the others are 0.
  void put(uint64_t bits, size_t count) {
    if (count == 0) return;
    const size_t shift = at_ % 64;
    words_[at_ / 64] |= bits << shift;
    if (shift + count > 64) words_[at_ / 64 + 1] |= bits >> (64 - shift);
    at_ += count;
  }

 private:
  std::span<uint64_t> words_;
  size_t at_ = 0;
};

}  // namespace espalier::prune

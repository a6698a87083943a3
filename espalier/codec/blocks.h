#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>

// How a tensor of n values is cut into blocks; part of the wire format.
namespace espalier::codec {

inline constexpr size_t kMinTailBlock = 128;
// Values that a coder with spans_blocks() gets at once; a multiple of every block size.
inline constexpr size_t kUnit = size_t{1} << 16;

// Calls visit(begin, size, index) for every block in order. block = 0: the whole tensor is one
// block. Otherwise: blocks of `block` values, a power of two, while they fit; then the rest in
// smaller and smaller powers of two down to kMinTailBlock; then what is left, fewer than
// kMinTailBlock values, as one last block.
template <class Visit>
void for_each_block(size_t n, size_t block, Visit&& visit) {
  if (block == 0) {
    if (n > 0) visit(size_t{0}, n, size_t{0});
    return;
  }
  size_t begin = 0, index = 0;
  while (begin < n) {
    const size_t rest = n - begin;
    const size_t size = rest < kMinTailBlock ? rest : std::min(block, std::bit_floor(rest));
    visit(begin, size, index++);
    begin += size;
  }
}

}  // namespace espalier::codec

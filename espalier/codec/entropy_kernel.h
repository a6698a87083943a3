#pragma once

#include <cstddef>
#include <cstdint>

// The vector half of RansDecoder (entropy_kernel.cpp); entropy_decode.cpp has the plain half and
// the checks.
namespace espalier::codec::detail {

struct RansView {
  uint32_t* states;       // of all lanes
  size_t lanes;           // a multiple of 8
  const uint16_t* words;  // unaligned
  size_t next_word, num_words;
  const uint8_t* slots;       // [context << bits | slot]: symbol, with three bytes of padding
  const uint32_t* frequency;  // [context << 8 | symbol]: frequency | cumulative << 16
  int bits;
};

// Decodes whole groups of `lanes` symbols while enough words remain for unchecked loads; returns
// the number of symbols done, 0 where the processor has no fast gathers. Symbols go to `symbols`
// (context from `contexts`).
size_t rans_decode_vector(RansView& view, const uint8_t* contexts, uint8_t* symbols, size_t count);

// As above for lanes ≤ 32; contexts[i mod 32] is the context of symbol i and becomes
// transition[2·context + (symbol & 1)]. At most 4 contexts. Writes context << 8 | symbol. Returns a
// multiple of 32.
size_t rans_decode_trellis_vector(RansView& view, const uint8_t* transition, uint8_t* contexts,
                                  uint16_t* joint, size_t count);

}  // namespace espalier::codec::detail

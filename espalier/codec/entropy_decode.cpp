#include <algorithm>
#include <cstring>

#include "espalier/base/error.h"
#include "espalier/codec/entropy.h"
#include "espalier/codec/entropy_kernel.h"

namespace espalier::codec {

// One symbol after the other, every word checked. Serves small messages, the ends of large ones and
// machines without gathers.
template <bool kTrellis>
void RansDecoder::decode(std::span<const uint8_t> transition, uint8_t* contexts, uint8_t* symbols,
                         uint16_t* joint, size_t count) {
  const int bits = model_.precision_bits_;
  const uint32_t mask = (1u << bits) - 1;
  const uint8_t* slots = model_.slots_.data();
  const uint32_t* frequency = model_.frequency_.data();
  for (size_t i = 0; i < count; ++i) {
    uint8_t& context = contexts[kTrellis ? i % kMaxRansLanes : i];
    uint32_t& state = states_[(position_ + i) & (lanes_ - 1)];
    const uint32_t slot = state & mask;
    const uint8_t symbol = slots[(size_t{context} << bits) + slot];
    const size_t whole = context * kMaxAlphabet + symbol;
    const uint32_t packed = frequency[whole];
    uint32_t next = (packed & 0xFFFF) * (state >> bits) + slot - (packed >> 16);
    if (next < 1u << 15) {
      if (next_word_ == num_words_) [[unlikely]]
        truncated();
      uint16_t word;
      std::memcpy(&word, words_.data() + 2 * next_word_, sizeof word);
      ++next_word_;
      next = next << 16 | word;
    }
    state = next;
    if constexpr (kTrellis) {
      joint[i] = static_cast<uint16_t>(whole);
      context = transition[2 * context + (symbol & 1)];
    } else {
      symbols[i] = symbol;
    }
  }
  position_ += count;
}

void RansDecoder::next(std::span<const uint8_t> contexts, std::span<uint8_t> symbols) {
  ESPALIER_CHECK(contexts.size() == symbols.size() && symbols.size() <= count_ - position_,
                 contexts.size(), " contexts for ", symbols.size(), " symbols, ",
                 count_ - position_, " left");
  const auto highest = std::max_element(contexts.begin(), contexts.end());
  ESPALIER_CHECK(contexts.empty() || *highest < model_.num_contexts_,
                 "a context outside the model");
  auto* context = const_cast<uint8_t*>(contexts.data());  // only the trellis form writes contexts
  size_t done = 0;
  if (lanes_ >= 8 && position_ % lanes_ == 0) {
    detail::RansView view = vector_view();
    done = detail::rans_decode_vector(view, context, symbols.data(), symbols.size());
    next_word_ = view.next_word;
    position_ += done;
  }
  decode<false>({}, context + done, symbols.data() + done, nullptr, symbols.size() - done);
}

void RansDecoder::next_trellis(std::span<const uint8_t> transition, std::span<uint8_t, 32> contexts,
                               std::span<uint16_t> joint) {
  ESPALIER_CHECK(joint.size() <= count_ - position_ && position_ % kMaxRansLanes == 0, joint.size(),
                 " symbols, ", count_ - position_, " left, position ", position_);
  ESPALIER_CHECK(transition.size() == 2 * model_.num_contexts_, transition.size());
  for (const uint8_t next : transition) ESPALIER_CHECK(next < model_.num_contexts_, int{next});
  for (const uint8_t context : contexts)
    ESPALIER_CHECK(context < model_.num_contexts_, int{context});
  size_t done = 0;
  if (lanes_ >= 8 && transition.size() == 8) {
    detail::RansView view = vector_view();
    done = detail::rans_decode_trellis_vector(view, transition.data(), contexts.data(),
                                              joint.data(), joint.size());
    next_word_ = view.next_word;
    position_ += done;
  }
  decode<true>(transition, contexts.data(), nullptr, joint.data() + done, joint.size() - done);
}

detail::RansView RansDecoder::vector_view() {
  return {.states = states_.data(),
          .lanes = lanes_,
          .words = reinterpret_cast<const uint16_t*>(words_.data()),
          .next_word = next_word_,
          .num_words = num_words_,
          .slots = model_.slots_.data(),
          .frequency = model_.frequency_.data(),
          .bits = model_.precision_bits_};
}

}  // namespace espalier::codec

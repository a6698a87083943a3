#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "espalier/base/bytes.h"

// Interleaved rANS for small alphabets and static models, and an escape list for the integers
// outside them.
//
// rANS (Duda, "Asymmetric numeral systems", arXiv 1311.2540, 2013; interleaving: Giesen, arXiv
// 1402.3392, 2014) keeps an integer state x in [2^15, 2^31). Encoding a symbol of frequency f and
// cumulative frequency c out of M = 2^precision maps x → (x / f)·M + c + x mod f, after the low 16
// bits of a state too large for that were written out. Decoding is the inverse, so the encoder
// walks backwards. Symbol i belongs to lane i mod R; R grows with the message (one lane per 4096
// symbols, at most 32) so that the lanes' start-up cost stays near .006 bit per symbol. How we
// differ: 31-bit states, so that plain signed vector instructions serve; one word layout for every
// vector width, so that the bytes do not depend on the machine.
//
// Stream: varint number of 16-bit words; R states (u32); the words. Every lane must end in its
// first state and every word must be used, which catches nearly all damage; what it does not catch
// decodes to some symbols of the alphabet. All sizes are checked before use: hostile bytes give
// Error, never a read or write outside the spans.
namespace espalier::codec {

namespace detail {
struct RansView;
}

inline constexpr size_t kMaxRansLanes = 32;
inline constexpr size_t kMaxContexts = 8;
inline constexpr size_t kMaxAlphabet = 256;

// Static frequencies of up to 8 contexts over alphabets of up to 256 symbols. Immutable.
class EntropyModel {
 public:
  // weights[context][symbol] ≥ 0 in any unit, at least two symbols per context; quantized to
  // integers that sum to 2^precision (10 to 14), at least 1 each so that every symbol can be coded.
  // Deterministic: largest remainders, ties to the lower symbol.
  EntropyModel(const std::vector<std::vector<double>>& weights, int precision_bits);

  int precision_bits() const { return precision_bits_; }
  size_t num_contexts() const { return num_contexts_; }
  size_t alphabet(size_t context) const { return alphabet_[context]; }
  uint32_t frequency(size_t context, size_t symbol) const {
    return frequency_[context * kMaxAlphabet + symbol] & 0xFFFF;
  }
  // −log2 of the quantized probability.
  double cost_bits(size_t context, size_t symbol) const;

 private:
  friend class RansEncoder;
  friend class RansDecoder;
  int precision_bits_;
  size_t num_contexts_;
  std::array<size_t, kMaxContexts> alphabet_{};
  std::vector<uint32_t> frequency_;  // [context·256 + symbol]: frequency | cumulative << 16
  std::vector<uint64_t>
      reciprocal_;  // ceil(2^(31+precision) / frequency): exact division by multiplication
  std::vector<uint8_t> slots_;  // [context << precision | slot]: symbol; padded for wide loads
};

// Number of interleaved lanes for a message of `count` symbols: 1, 2, 4, … 32.
size_t rans_lanes(size_t count);
// Most bytes that RansEncoder::finish appends for `count` symbols.
size_t max_rans_bytes(size_t count);

// Encodes a message from its end to its beginning. Not thread-safe.
class RansEncoder {
 public:
  RansEncoder(const EntropyModel& model, size_t count);
  // Takes the `joint.size()` symbols that stand before everything pushed so far; joint = context <<
  // 8 | symbol, within the model (our callers' duty, checked). Symbols of one call are in message
  // order.
  void push_front(std::span<const uint16_t> joint);
  // After all `count` symbols; appends the stream.
  void finish(Bytes& out) &&;

 private:
  const EntropyModel& model_;
  size_t left_, lanes_;
  std::array<uint32_t, kMaxRansLanes> states_;
  std::vector<uint16_t> words_;  // filled from the end
  size_t first_word_;
};

// Decodes a message from its beginning. Not thread-safe.
class RansDecoder {
 public:
  // Reads the stream's head at `in`; throws Error("[where] …").
  RansDecoder(const EntropyModel& model, size_t count, ByteReader& in);
  // The next symbols, whose contexts (< num_contexts) the caller knows.
  void next(std::span<const uint8_t> contexts, std::span<uint8_t> symbols);
  // The next symbols, whose context follows from the symbol 32 places before: context' =
  // transition[2·context + (symbol & 1)]. `contexts` are those of the coming symbols, by position
  // mod 32, and are updated. Writes context << 8 | symbol. Calls start at multiples of 32 in the
  // message.
  void next_trellis(std::span<const uint8_t> transition, std::span<uint8_t, 32> contexts,
                    std::span<uint16_t> joint);
  // After all symbols: throws unless every lane is back in its first state and every word was used.
  void finish() const;

 private:
  template <bool kTrellis>
  void decode(std::span<const uint8_t> transition, uint8_t* contexts, uint8_t* symbols,
              uint16_t* joint, size_t count);
  detail::RansView vector_view();
  [[noreturn]] void truncated() const;

  const EntropyModel& model_;
  size_t position_ = 0, count_, lanes_;
  std::array<uint32_t, kMaxRansLanes> states_;
  std::span<const uint8_t> words_;
  size_t next_word_ = 0, num_words_;
  std::string where_;
};

// Integers that have no symbol of their own travel apart, in order, as zigzag varints (at most 5
// bytes each).
void put_escape(int32_t value, Bytes& out);
int32_t get_escape(ByteReader& in);

// Integers with one model: v in [−reach, reach] is symbol v + reach, any other is symbol 2·reach +
// 1 and an escape. The model's alphabets have 2·reach + 2 symbols. Stream: rANS stream, then the
// escapes. `contexts` as long as `values`.
void encode_integers(const EntropyModel& model, std::span<const uint8_t> contexts,
                     std::span<const int32_t> values, Bytes& out);
void decode_integers(const EntropyModel& model, std::span<const uint8_t> contexts, ByteReader& in,
                     std::span<int32_t> values);
size_t max_integers_bytes(size_t count);

}  // namespace espalier::codec

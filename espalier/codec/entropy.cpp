#include "espalier/codec/entropy.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/base/varint.h"

namespace espalier::codec {
namespace {

constexpr uint32_t kLowState = 1u << 15;
constexpr size_t kSymbolsPerLane = 4096;
constexpr size_t kMaxCountBytes = 10;  // varint of the number of words
constexpr size_t kMaxEscapeBytes = 5;
constexpr size_t kSlotPadding = 4;

// Integers ≥ 1 in proportion to `weights` that sum to `total`.
std::vector<uint32_t> quantize_weights(const std::vector<double>& weights, uint32_t total) {
  const size_t size = weights.size();
  ESPALIER_CHECK(size >= 2 && size <= kMaxAlphabet, size);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  ESPALIER_CHECK(sum > 0 && std::isfinite(sum), sum);
  std::vector<uint32_t> counts(size);
  std::vector<double> ideal(size);
  int64_t missing = total;
  for (size_t i = 0; i < size; ++i) {
    ideal[i] = weights[i] / sum * total;
    counts[i] = std::max(1u, static_cast<uint32_t>(ideal[i]));
    missing -= counts[i];
  }
  // One unit at a time where it changes the expected cost Σ ideal·log2(count) for the best.
  for (; missing > 0; --missing) {
    size_t best = 0;
    for (size_t i = 1; i < size; ++i) {
      if (ideal[i] / (counts[i] + 0.5) > ideal[best] / (counts[best] + 0.5)) best = i;
    }
    ++counts[best];
  }
  for (; missing < 0; ++missing) {
    size_t best = size;
    for (size_t i = 0; i < size; ++i) {
      if (counts[i] > 1 &&
          (best == size || ideal[i] / (counts[i] - 0.5) < ideal[best] / (counts[best] - 0.5))) {
        best = i;
      }
    }
    --counts[best];
  }
  return counts;
}

}  // namespace

EntropyModel::EntropyModel(const std::vector<std::vector<double>>& weights, int precision_bits)
    : precision_bits_(precision_bits), num_contexts_(weights.size()) {
  ESPALIER_CHECK(precision_bits >= 10 && precision_bits <= 14, precision_bits);
  ESPALIER_CHECK(num_contexts_ >= 1 && num_contexts_ <= kMaxContexts, num_contexts_);
  const uint32_t total = 1u << precision_bits;
  frequency_.assign(num_contexts_ * kMaxAlphabet, 0);
  reciprocal_.assign(num_contexts_ * kMaxAlphabet, 0);
  slots_.assign((num_contexts_ << precision_bits) + kSlotPadding, 0);
  for (size_t context = 0; context < num_contexts_; ++context) {
    alphabet_[context] = weights[context].size();
    const auto counts = quantize_weights(weights[context], total);
    uint32_t cumulative = 0;
    for (size_t symbol = 0; symbol < counts.size(); ++symbol) {
      const size_t joint = context * kMaxAlphabet + symbol;
      frequency_[joint] = counts[symbol] | cumulative << 16;
      reciprocal_[joint] =
          ((uint64_t{1} << (31 + precision_bits)) + counts[symbol] - 1) / counts[symbol];
      const auto first =
          slots_.begin() + static_cast<std::ptrdiff_t>((context << precision_bits) + cumulative);
      std::fill_n(first, counts[symbol], static_cast<uint8_t>(symbol));
      cumulative += counts[symbol];
    }
    ESPALIER_CHECK(cumulative == total, cumulative);
  }
}

double EntropyModel::cost_bits(size_t context, size_t symbol) const {
  return precision_bits_ - std::log2(static_cast<double>(frequency(context, symbol)));
}

size_t rans_lanes(size_t count) {
  return std::bit_floor(std::clamp<size_t>(count / kSymbolsPerLane, 1, kMaxRansLanes));
}

size_t max_rans_bytes(size_t count) {
  return kMaxCountBytes + 4 * rans_lanes(count) + 2 * count;  // a symbol writes at most one word
}

RansEncoder::RansEncoder(const EntropyModel& model, size_t count)
    : model_(model), left_(count), lanes_(rans_lanes(count)), words_(count), first_word_(count) {
  states_.fill(kLowState);
}

void RansEncoder::push_front(std::span<const uint16_t> joint) {
  ESPALIER_CHECK(joint.size() <= left_, joint.size(), " symbols, ", left_, " left");
  const int bits = model_.precision_bits_;
  const uint32_t* frequency = model_.frequency_.data();
  const uint64_t* reciprocal = model_.reciprocal_.data();
  uint16_t* word = words_.data() + first_word_;
  uint32_t bad = 0;
  auto states = states_;  // a local copy stays in registers and L1 whatever `word` may alias
  const size_t first = left_ - joint.size();
  for (size_t i = joint.size(); i-- > 0;) {
    const size_t symbol = joint[i];
    if (symbol >= model_.frequency_.size()) [[unlikely]] {
      bad = 1;
      break;
    }
    const uint32_t packed = frequency[symbol];
    const uint32_t f = packed & 0xFFFF;
    uint32_t& state = states[(first + i) & (lanes_ - 1)];
    // Write first and move the pointer only when the word counts: no branch to mispredict.
    word[-1] = static_cast<uint16_t>(state);
    const bool full = state >= f << (31 - bits);
    word -= full;
    uint32_t x = full ? state >> 16 : state;
    bad |= (f == 0);
    const auto quotient = static_cast<uint32_t>((x * reciprocal[symbol]) >> (31 + bits));
    state = (quotient << bits) + (packed >> 16) + (x - quotient * f);
  }
  ESPALIER_CHECK(bad == 0, "a symbol outside the model");
  states_ = states;
  left_ = first;
  first_word_ = static_cast<size_t>(word - words_.data());
}

void RansEncoder::finish(Bytes& out) && {
  ESPALIER_CHECK(left_ == 0, left_, " symbols were not pushed");
  const std::span<const uint16_t> used(words_.data() + first_word_, words_.size() - first_word_);
  put_varint(out, used.size());
  ByteWriter writer(out);
  writer.array(std::span<const uint32_t>(states_.data(), lanes_));
  writer.array(used);
}

RansDecoder::RansDecoder(const EntropyModel& model, size_t count, ByteReader& in)
    : model_(model), count_(count), lanes_(rans_lanes(count)), where_(in.where()) {
  const uint64_t num_words = get_varint(in);
  if (num_words > count) {
    fail(where_, "expected at most ", count, " entropy-coded words, got ", num_words,
         "; the message is damaged");
  }
  num_words_ = num_words;
  states_.fill(kLowState);
  in.array(std::span<uint32_t>(states_.data(), lanes_));
  for (const uint32_t state : states_) {
    if (state < kLowState || state >= 1u << 31)
      fail(where_, "an impossible entropy-coder state; the message is damaged");
  }
  words_ = in.take(2 * num_words_);
}

void RansDecoder::finish() const {
  ESPALIER_CHECK(position_ == count_, position_, " of ", count_, " symbols were taken");
  bool intact = next_word_ == num_words_;
  for (const uint32_t state : states_) intact &= state == kLowState;
  if (!intact) fail(where_, "the entropy coder did not end where it began; the message is damaged");
}

void RansDecoder::truncated() const {
  fail(where_, "the entropy-coded words end before the symbols do; the message is damaged");
}

void put_escape(int32_t value, Bytes& out) { put_varint(out, zigzag(value)); }

int32_t get_escape(ByteReader& in) {
  const int64_t value = unzigzag(get_varint(in));
  if (value < INT32_MIN || value > INT32_MAX) {
    fail(in.where(), "expected an escaped integer of 32 bits; the message is damaged");
  }
  return static_cast<int32_t>(value);
}

void encode_integers(const EntropyModel& model, std::span<const uint8_t> contexts,
                     std::span<const int32_t> values, Bytes& out) {
  ESPALIER_CHECK(contexts.size() == values.size(), contexts.size(), " and ", values.size());
  std::vector<uint16_t> joint(values.size());
  Bytes escapes;
  for (size_t i = 0; i < values.size(); ++i) {
    const auto reach = static_cast<int64_t>(model.alphabet(contexts[i]) / 2 - 1);
    const int64_t symbol = std::clamp<int64_t>(int64_t{values[i]} + reach, -1, 2 * reach + 1);
    const bool escaped = symbol < 0 || symbol > 2 * reach;
    if (escaped) put_escape(values[i], escapes);
    joint[i] = static_cast<uint16_t>(contexts[i] * kMaxAlphabet +
                                     static_cast<size_t>(escaped ? 2 * reach + 1 : symbol));
  }
  RansEncoder encoder(model, values.size());
  encoder.push_front(joint);
  std::move(encoder).finish(out);
  out.insert(out.end(), escapes.begin(), escapes.end());
}

void decode_integers(const EntropyModel& model, std::span<const uint8_t> contexts, ByteReader& in,
                     std::span<int32_t> values) {
  ESPALIER_CHECK(contexts.size() == values.size(), contexts.size(), " and ", values.size());
  RansDecoder decoder(model, values.size(), in);
  std::vector<uint8_t> symbols(values.size());
  decoder.next(contexts, symbols);
  decoder.finish();
  for (size_t i = 0; i < values.size(); ++i) {
    const auto reach = static_cast<int32_t>(model.alphabet(contexts[i]) / 2) - 1;
    values[i] = symbols[i] == 2 * reach + 1 ? get_escape(in) : symbols[i] - reach;
  }
}

size_t max_integers_bytes(size_t count) { return max_rans_bytes(count) + kMaxEscapeBytes * count; }

}  // namespace espalier::codec

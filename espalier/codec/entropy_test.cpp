#include "espalier/codec/entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/codec/entropy_scale.h"
#include "espalier/codec/gauss_tables.h"
#include "espalier/codec/test_damage.h"
#include "espalier/codec/test_targets.h"

namespace espalier::codec {
namespace {

EntropyModel gaussian_model(int contexts, int reach, double step, int precision) {
  std::vector<std::vector<double>> weights;
  for (int c = 0; c < contexts; ++c) {
    std::vector<double> w;
    for (int k = -reach; k <= reach; ++k) {
      w.push_back(normal_cell((k - 0.5 + 0.1 * c) * step, (k + 0.5 + 0.1 * c) * step));
    }
    w.push_back(1e-5);
    weights.push_back(w);
  }
  return EntropyModel(weights, precision);
}

// A symbol of the model's own law.
uint8_t draw(const EntropyModel& model, size_t context, Stream& stream) {
  auto slot = static_cast<uint32_t>(stream.below(uint64_t{1} << model.precision_bits()));
  size_t symbol = 0;
  for (; slot >= model.frequency(context, symbol); ++symbol)
    slot -= model.frequency(context, symbol);
  return static_cast<uint8_t>(symbol);
}

struct Message {
  std::vector<uint8_t> contexts, symbols;
  std::vector<uint16_t> joint;
  double ideal_bits = 0;
};

Message random_message(const EntropyModel& model, size_t count, uint64_t seed) {
  Stream stream{Key(seed)};
  Message m;
  for (size_t i = 0; i < count; ++i) {
    const auto context = static_cast<uint8_t>(stream.below(model.num_contexts()));
    m.contexts.push_back(context);
    m.symbols.push_back(draw(model, context, stream));
    m.joint.push_back(static_cast<uint16_t>(context << 8 | m.symbols.back()));
    m.ideal_bits += model.cost_bits(context, m.symbols.back());
  }
  return m;
}

Bytes encode(const EntropyModel& model, std::span<const uint16_t> joint) {
  Bytes out;
  RansEncoder encoder(model, joint.size());
  encoder.push_front(joint);
  std::move(encoder).finish(out);
  return out;
}

// The textbook coder: divisions, one lane after the other, words to a list that is reversed at the
// end.
Bytes reference_encode(const EntropyModel& model, std::span<const uint16_t> joint) {
  const size_t lanes = rans_lanes(joint.size());
  const auto bits = static_cast<uint32_t>(model.precision_bits());
  std::vector<uint64_t> states(lanes, 1 << 15);
  std::vector<uint16_t> words;
  for (size_t i = joint.size(); i-- > 0;) {
    const size_t context = joint[i] >> 8, symbol = joint[i] & 0xFF;
    uint64_t f = model.frequency(context, symbol), cumulative = 0;
    for (size_t s = 0; s < symbol; ++s) cumulative += model.frequency(context, s);
    uint64_t& x = states[i % lanes];
    if (x >= f << (31 - bits)) {
      words.push_back(static_cast<uint16_t>(x));
      x >>= 16;
    }
    x = ((x / f) << bits) + cumulative + x % f;
  }
  Bytes out;
  for (uint64_t n = words.size();; n >>= 7) {
    out.push_back(static_cast<uint8_t>(n >= 0x80 ? (n & 0x7F) | 0x80 : n));
    if (n < 0x80) break;
  }
  for (const uint64_t x : states) ByteWriter(out).put(static_cast<uint32_t>(x));
  for (size_t i = words.size(); i-- > 0;) ByteWriter(out).put(words[i]);
  return out;
}

TEST(Entropy, FrequenciesSumAndFavourNobody) {
  for (const int precision : {10, 12, 14}) {
    const EntropyModel model = gaussian_model(3, 20, 0.3, precision);
    for (size_t c = 0; c < 3; ++c) {
      uint32_t sum = 0;
      for (size_t s = 0; s < model.alphabet(c); ++s) {
        EXPECT_GE(model.frequency(c, s), 1u);
        sum += model.frequency(c, s);
      }
      EXPECT_EQ(sum, 1u << precision);
    }
  }
}

TEST(Entropy, BytesAreTheTextbookCoders) {
  for (const int precision : {10, 12, 14}) {
    const EntropyModel model = gaussian_model(4, 9, 0.7, precision);
    for (const size_t count : std::vector<size_t>{0, 1, 31, 1000, 8192, 33000, 140001}) {
      const Message m = random_message(model, count, count + 1);
      EXPECT_EQ(encode(model, m.joint), reference_encode(model, m.joint)) << count;
    }
  }
}

TEST(Entropy, RoundTripOnEveryTargetAndPiecewise) {
  const EntropyModel model = gaussian_model(4, 9, 0.7, 12);
  for_every_target([&] {
    for (const size_t count : std::vector<size_t>{0, 1, 33, 5000, 40000, 70000, 131072, 200003}) {
      const Message m = random_message(model, count, count);
      Bytes bytes;
      RansEncoder encoder(model, count);
      for (size_t end = count; end > 0;) {
        const size_t begin = end > 4096 ? (end - 1) / 4096 * 4096 : 0;
        encoder.push_front(std::span(m.joint).subspan(begin, end - begin));
        end = begin;
      }
      std::move(encoder).finish(bytes);
      EXPECT_LE(bytes.size(), max_rans_bytes(count));
      std::vector<uint8_t> symbols(count);
      ByteReader reader(bytes, "test");
      RansDecoder decoder(model, count, reader);
      for (size_t begin = 0; begin < count; begin += 4096) {
        const size_t size = std::min<size_t>(4096, count - begin);
        decoder.next(std::span(m.contexts).subspan(begin, size),
                     std::span(symbols).subspan(begin, size));
      }
      decoder.finish();
      reader.finish();
      EXPECT_EQ(symbols, m.symbols) << count;
    }
  });
}

TEST(Entropy, WithinAHundredthBitOfTheEntropy) {
  for (const int precision : {12, 14}) {
    const EntropyModel model = gaussian_model(4, 9, 0.7, precision);
    for (const size_t count : {size_t{1} << 12, size_t{1} << 16, size_t{1} << 20}) {
      const Message m = random_message(model, count, 5);
      const double excess =
          (8.0 * static_cast<double>(encode(model, m.joint).size()) - m.ideal_bits) /
          static_cast<double>(count);
      EXPECT_LT(excess, 0.01 + 32.0 / static_cast<double>(count)) << count;
      EXPECT_GT(excess, 0);
    }
  }
}

TEST(Entropy, TrellisContextsFollowTheParities) {
  const EntropyModel model = gaussian_model(4, 9, 0.7, 12);
  const std::vector<uint8_t> transition = {0, 2, 2, 0, 1, 3, 3, 1};
  for_every_target([&] {
    for (const size_t count : std::vector<size_t>{5, 4096, 34000, 140005}) {
      Stream stream{Key(count)};
      std::vector<uint16_t> joint(count), decoded(count);
      std::array<uint8_t, 32> contexts{};
      for (size_t i = 0; i < count; ++i) {
        uint8_t& context = contexts[i % 32];
        const uint8_t symbol = draw(model, context, stream);
        joint[i] = static_cast<uint16_t>(context << 8 | symbol);
        context = transition[2u * context + (symbol & 1u)];
      }
      const Bytes bytes = encode(model, joint);
      ByteReader reader(bytes, "test");
      RansDecoder decoder(model, count, reader);
      std::array<uint8_t, 32> state{};
      const size_t half = count / 64 * 32;
      decoder.next_trellis(transition, state, std::span(decoded).first(half));
      decoder.next_trellis(transition, state, std::span(decoded).subspan(half));
      decoder.finish();
      EXPECT_EQ(decoded, joint);
      EXPECT_EQ(state, contexts);
    }
  });
}

TEST(Entropy, AnyIntegerTravels) {
  const EntropyModel model = gaussian_model(2, 6, 0.5, 12);
  Stream stream{Key(3)};
  std::vector<int32_t> values, decoded(3000);
  std::vector<uint8_t> contexts;
  for (size_t i = 0; i < decoded.size(); ++i) {
    const int scale = static_cast<int>(stream.below(32));
    values.push_back(static_cast<int32_t>(stream.u32()) >> scale);
    contexts.push_back(static_cast<uint8_t>(i % 2));
  }
  values[0] = INT32_MIN;
  values[1] = INT32_MAX;
  values[2] = 7;
  values[3] = -7;
  Bytes bytes;
  encode_integers(model, contexts, values, bytes);
  EXPECT_LE(bytes.size(), max_integers_bytes(values.size()));
  ByteReader reader(bytes, "test");
  decode_integers(model, contexts, reader, decoded);
  reader.finish();
  EXPECT_EQ(values, decoded);
}

TEST(Entropy, DamageIsAnErrorOrOtherSymbols) {
  const EntropyModel model = gaussian_model(4, 9, 0.7, 12);
  const Message m = random_message(model, 40000, 9);
  const Bytes bytes = encode(model, m.joint);
  std::vector<uint8_t> symbols(m.symbols.size());
  const auto decode = [&](const Bytes& damaged) {
    ByteReader reader(damaged, "test");
    RansDecoder decoder(model, symbols.size(), reader);
    decoder.next(m.contexts, symbols);
    decoder.finish();
    reader.finish();
  };
  EXPECT_NO_THROW(decode(bytes));
  for (size_t size = 0; size < bytes.size(); size += 1 + size / 8) {
    EXPECT_THROW(decode(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size))),
                 Error)
        << size;
  }
  size_t caught = 0, flips = 0;
  for (size_t bit = 0; bit < 8 * bytes.size(); bit += bit < 400 ? 1 : 997) {
    ++flips;
    try {
      decode(with_flipped_bit(bytes, bit));
    } catch (const Error&) {
      ++caught;
    }
    for (size_t i = 0; i < symbols.size(); ++i)
      ASSERT_LT(symbols[i], model.alphabet(m.contexts[i]));
  }
  EXPECT_GE(caught, flips * 99 / 100);
}

TEST(EntropyScale, SixteenBitsAreWithinAThousandth) {
  EXPECT_EQ(encode_scale(0), 0);
  EXPECT_EQ(decode_scale(0), 0);
  for (double x = 0x1p-119; x < 0x1p119; x *= 1.37) {
    EXPECT_NEAR(static_cast<double>(decode_scale(encode_scale(x))) / x, 1, 0x1p-9) << x;
  }
  EXPECT_EQ(encode_scale(1e-37), 0);
  EXPECT_EQ(decode_scale(encode_scale(0x1p-120)), 0x1p-120f);
  EXPECT_EQ(decode_scale(encode_scale(1e300)), 0x1p120f);
  EXPECT_THROW(decode_scale(1), Error);
  EXPECT_THROW(decode_scale(0xFFFF), Error);
  EXPECT_EQ(encode_scale(0x1p120), encode_scale(1e300));
}

TEST(EntropyScale, SumsAreExactOnIntegers) {
  std::vector<float> x, y;
  double square = 0, product = 0;
  for (int i = 0; i < 1003; ++i) {
    x.push_back(static_cast<float>(i % 17 - 8));
    y.push_back(static_cast<float>(i % 5));
    square += (i % 17 - 8) * (i % 17 - 8);
    product += (i % 17 - 8) * (i % 5);
  }
  EXPECT_EQ(sum_of_squares(x), square);
  EXPECT_EQ(dot(x, y), product);
}

}  // namespace
}  // namespace espalier::codec

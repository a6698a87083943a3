#include <cmath>

#include "espalier/codec/bfloat.h"
#include "espalier/codec/registry.h"
#include "espalier/codec/uniform.h"

// Stochastic uniform quantization between the least and the greatest value of a block (Konečný et
// al. 2016, section 3; Suresh et al. 2017, section 2.2): unbiased, L = 2^bits − 1 steps. Constant
// blocks are exact.
//
// Bytes: low, high, then the codes (uniform.h). The ends are float32; for rotated blocks of at most
// 4096 coefficients they are bfloat16, rounded outwards, which costs .5 % of the error and saves 32
// bits per block.
namespace espalier::codec {

namespace {

constexpr size_t kLongestShortEnds = 4096;
// Ends of honest senders are below this: values of at most 2^96 after a rotation of at most 2^40 of
// them.
constexpr float kMaxEnd = 0x1p117f;

struct QuantizeOptions {
  int64_t bits = 8;
  int64_t block = 0;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("bits", self.bits, Field("Bits per coordinate.").at_least(1).at_most(16));
    visit("block", self.block,
          Field("As the first stage: values per pair of ends, 1024, 2048 or 4096; 0 is one pair "
                "for the whole tensor. After a "
                "transform its blocks are used.")
              .at_least(0));
  }
};

class Quantize final : public Stage {
 public:
  Quantize(const QuantizeOptions& options, bool rotated)
      : bits_(static_cast<int>(options.bits)),
        block_(static_cast<size_t>(options.block)),
        rotated_(rotated) {}

  size_t output_size(size_t) const override { return 0; }
  size_t max_bytes(size_t n) const override {
    return n == 0 ? 0 : (short_ends(n) ? 4 : 8) + packed_bytes(n, bits_);
  }
  size_t block() const override { return block_; }
  bool unbiased() const override { return true; }
  bool fetches_upcoming() const override { return bits_ <= 6; }

  void encode(std::span<const float> in, Key key, std::span<float> out,
              Bytes& bytes) const override {
    BlockNotes notes;
    encode_noted(in, key, out, bytes, notes);
  }

  void encode_noted(std::span<const float> in, Key key, std::span<float>, Bytes& bytes,
                    BlockNotes& notes) const override {
    if (in.empty()) return;
    Range range = notes.range ? *notes.range : range_of(in);
    ByteWriter writer(bytes);
    if (short_ends(in.size())) {
      const uint16_t low = bfloat_down(range.low), high = bfloat_up(range.high);
      range = {from_bfloat(low), from_bfloat(high)};
      writer.put(low);
      writer.put(high);
    } else {
      writer.put(range.low);
      writer.put(range.high);
    }
    const size_t at = bytes.size();
    bytes.resize(at + packed_bytes(in.size(), bits_));
    quantize_uniform(in, range, bits_, key, bytes.data() + at, notes.upcoming);
  }

  void decode(std::span<float>, std::span<const uint8_t> bytes, Key,
              std::span<float> out) const override {
    if (out.empty()) return;
    ByteReader reader(bytes, "codec/quantize");
    Range range;
    if (short_ends(out.size())) {
      range.low = from_bfloat(reader.get<uint16_t>());
      range.high = from_bfloat(reader.get<uint16_t>());
    } else {
      range.low = reader.get<float>();
      range.high = reader.get<float>();
    }
    if (!(range.low >= -kMaxEnd && range.high <= kMaxEnd && range.low <= range.high)) {
      fail("codec/quantize", "impossible ends ", range.low, " and ", range.high);
    }
    dequantize_uniform(reader.take(reader.remaining()).data(), range, bits_, out);
  }

 private:
  bool short_ends(size_t n) const { return rotated_ && n <= kLongestShortEnds; }

  int bits_;
  size_t block_;
  bool rotated_;
};

std::unique_ptr<Stage> make_quantize(const QuantizeOptions& options, StageContext& context) {
  check_block("quantize", options.block);
  if (options.block != 0 && !context.first)
    fail("codec/quantize", "block belongs to the first stage of a pipeline; leave it out here");
  return std::make_unique<Quantize>(options, context.rotated);
}

}  // namespace

StageRow quantize_row() {
  return make_stage_row<QuantizeOptions, make_quantize>(
      "quantize", 4, StageKind::kCoder, "stochastic uniform levels between minimum and maximum");
}

}  // namespace espalier::codec

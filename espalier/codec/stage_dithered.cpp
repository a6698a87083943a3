#include "espalier/codec/dithered.h"
#include "espalier/codec/gaussian_coder.h"
#include "espalier/codec/registry.h"

// Subtractively dithered quantization, entropy-coded (dithered.h): unbiased with an error that does
// not depend on the input. Only the rate depends on the coordinates being Gaussian, so a rotation
// should stand before.
//
// Bytes of a unit: size of the rest (u32), then what DitheredCode writes.
namespace espalier::codec {

namespace {

struct DitheredOptions {
  double bits = 2;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("bits", self.bits,
          Field("Nominal bits per coordinate, also fractional; the error is that of Gaussian "
                "coordinates.")
              .at_least(0.25)
              .at_most(8));
  }
};

class Dithered final : public EntropyCoder<DitheredCode> {
 public:
  using EntropyCoder::EntropyCoder;

  bool unbiased() const override { return true; }

  void encode(std::span<const float> in, Key key, std::span<float>, Bytes& bytes) const override {
    put_sized(bytes, [&] { code_.encode(in, block_, key, bytes); });
  }
  void decode(std::span<float>, std::span<const uint8_t> bytes, Key key,
              std::span<float> out) const override {
    code_.decode(bytes, block_, key, out);
  }
};

std::unique_ptr<Stage> make_dithered(const DitheredOptions& options, StageContext& context) {
  refuse_frame("dithered", context);
  return std::make_unique<Dithered>(options.bits, coder_block(context));
}

}  // namespace

StageRow dithered_row() {
  return make_stage_row<DitheredOptions, make_dithered>(
      "dithered", 6, StageKind::kCoder,
      "subtractive dither and entropy coding: unbiased, error known in advance");
}

}  // namespace espalier::codec

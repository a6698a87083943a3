#include "espalier/codec/gaussian_coder.h"
#include "espalier/codec/registry.h"
#include "espalier/codec/trellis.h"

// Dependent quantization along a four-state trellis, entropy-coded (trellis.h): the least error at
// a given size, but biased. For the downlink, and for uplinks with error feedback.
//
// Bytes of a unit: size of the rest (u32), then what TrellisCode writes.
namespace espalier::codec {

namespace {

struct TrellisOptions {
  double bits = 4;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("bits", self.bits,
          Field("Nominal bits per coordinate, also fractional.").at_least(0.25).at_most(7));
  }
};

class Trellis final : public EntropyCoder<TrellisCode> {
 public:
  using EntropyCoder::EntropyCoder;

  bool unbiased() const override { return false; }

  void encode(std::span<const float> in, Key, std::span<float>, Bytes& bytes) const override {
    put_sized(bytes, [&] { code_.encode(in, block_, bytes); });
  }
  void decode(std::span<float>, std::span<const uint8_t> bytes, Key,
              std::span<float> out) const override {
    code_.decode(bytes, block_, out);
  }
};

std::unique_ptr<Stage> make_trellis(const TrellisOptions& options, StageContext& context) {
  refuse_frame("trellis", context);
  require_rotation("trellis", context);
  refuse_scaled_up("trellis", context);
  return std::make_unique<Trellis>(options.bits, coder_block(context));
}

}  // namespace

StageRow trellis_row() {
  return make_stage_row<TrellisOptions, make_trellis>(
      "trellis", 7, StageKind::kCoder,
      "dependent quantization and entropy coding: least error, biased");
}

}  // namespace espalier::codec

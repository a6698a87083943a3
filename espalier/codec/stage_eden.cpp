#include "espalier/codec/eden.h"
#include "espalier/codec/gaussian_coder.h"
#include "espalier/codec/registry.h"

// EDEN (eden.h): the nearest Lloyd–Max level of each Gaussian coordinate, and one scale per block
// that makes the whole unbiased (or the error least). DRIVE is bits = 1.
namespace espalier::codec {

namespace {

struct EdenOptions {
  double bits = 2;
  bool unbiased = true;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("bits", self.bits,
          Field("Bits per coordinate: round(2^bits) levels, so 1.585 is 3 levels.")
              .at_least(1)
              .at_most(8));
    visit("unbiased", self.unbiased,
          Field("true: the mean of many senders converges. false: least error of each, for error "
                "feedback."));
  }
};

class Eden final : public Stage {
 public:
  Eden(const EdenOptions& options, const StageContext& context)
      : code_(options.bits, options.unbiased ? EdenScale::kUnbiased : EdenScale::kBiased),
        block_(coder_block(context)),
        unbiased_(options.unbiased && context.rotations >= 2) {}

  size_t output_size(size_t) const override { return 0; }
  size_t max_bytes(size_t n) const override { return code_.encoded_bytes(n, block_); }
  // One rotation leaves sparse and peaky blocks biased, so that it takes two to promise this.
  bool unbiased() const override { return unbiased_; }

  void encode(std::span<const float> in, Key, std::span<float>, Bytes& bytes) const override {
    code_.encode(in, block_, bytes);
  }
  void decode(std::span<float>, std::span<const uint8_t> bytes, Key,
              std::span<float> out) const override {
    code_.decode(bytes, block_, out);
  }

 private:
  EdenCode code_;
  size_t block_;
  bool unbiased_;
};

std::unique_ptr<Stage> make_eden(const EdenOptions& options, StageContext& context) {
  refuse_frame("eden", context);
  require_rotation("eden", context);
  if (!options.unbiased) refuse_scaled_up("eden", context);
  return std::make_unique<Eden>(options, context);
}

}  // namespace

StageRow eden_row() {
  return make_stage_row<EdenOptions, make_eden>(
      "eden", 5, StageKind::kCoder,
      "optimal levels for Gaussian coordinates, one scale per block (EDEN, DRIVE)");
}

}  // namespace espalier::codec

#include <bit>
#include <cstring>

#include "espalier/codec/bfloat.h"
#include "espalier/codec/fwht.h"
#include "espalier/codec/registry.h"

// Each value to the nearest bfloat16 or IEEE half, ties to even: two bytes a value, biased by at
// most 2^-9 or 2^-12 of it (half: or 2^-25).
namespace espalier::codec {

namespace {

constexpr float kMaxHalf = 65504.0f;

struct CastOptions {
  std::string to = "bf16";

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("to", self.to, Field("Type of the values that travel.").one_of({"bf16", "fp16"}));
  }
};

// |value| ≤ kMaxHalf (or what rounds to it).
uint16_t to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x38800000u) {  // normal: rebias the exponent, round off 13 bits
    return static_cast<uint16_t>(
        sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13));
  }
  // Denormal: adding 1/2 leaves the value in units of 2^-24 in the low bits, rounded by the
  // addition.
  const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
  return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
}

float from_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u)
    return std::bit_cast<float>(sign | 0x7f800000u);  // infinity or NaN: refused by the pipeline
  if (magnitude >= 0x400u) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
  return std::bit_cast<float>(sign |
                              std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f));
}

class Cast final : public Stage {
 public:
  explicit Cast(bool half) : half_(half) {}

  size_t output_size(size_t) const override { return 0; }
  size_t max_bytes(size_t n) const override { return 2 * n; }
  size_t block() const override {
    return size_t{1} << 14;
  }  // of no consequence: keeps a block in cache
  bool unbiased() const override { return false; }

  void encode(std::span<const float> in, Key, std::span<float>, Bytes& bytes) const override {
    if (half_ && max_magnitude_bits(in) > std::bit_cast<uint32_t>(kMaxHalf)) {
      fail("codec/cast", "expected magnitudes of at most 65504 for fp16, got ",
           std::bit_cast<float>(max_magnitude_bits(in)), "; use to = \"bf16\"");
    }
    const size_t at = bytes.size();
    bytes.resize(at + 2 * in.size());
    for (size_t i = 0; i < in.size(); ++i) {
      const uint16_t value = half_ ? to_half(in[i]) : bfloat_nearest(in[i]);
      std::memcpy(bytes.data() + at + 2 * i, &value, 2);
    }
  }

  void decode(std::span<float>, std::span<const uint8_t> bytes, Key,
              std::span<float> out) const override {
    for (size_t i = 0; i < out.size(); ++i) {
      uint16_t value;
      std::memcpy(&value, bytes.data() + 2 * i, 2);
      out[i] = half_ ? from_half(value) : from_bfloat(value);
    }
  }

 private:
  bool half_;
};

std::unique_ptr<Stage> make_cast(const CastOptions& options, StageContext&) {
  return std::make_unique<Cast>(options.to == "fp16");
}

}  // namespace

StageRow cast_row() {
  return make_stage_row<CastOptions, make_cast>("cast", 10, StageKind::kCoder,
                                                "bfloat16 or IEEE half");
}

}  // namespace espalier::codec

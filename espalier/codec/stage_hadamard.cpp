#include <algorithm>
#include <bit>
#include <cmath>

#include "espalier/codec/fwht.h"
#include "espalier/codec/registry.h"

// Random rotation by signs and a Walsh–Hadamard transform (Ailon and Chazelle 2006; Suresh et al.
// 2017, section 4): every coordinate of the result is close to N(0, ‖x‖²/N), so that ranges are
// small and no coordinate matters more than another. We differ from the paper by working in blocks;
// `block = 0` is the paper's transform of the whole vector, padded to a power of two.
namespace espalier::codec {

namespace {

// A short last block is padded to at least this: fewer coordinates are not yet Gaussian.
constexpr size_t kMinRotation = 64;

struct HadamardOptions {
  int64_t block = 4096;
  int64_t rotations = 1;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("block", self.block,
          Field("Coefficients per block: 1024, 2048 or 4096; 0 transforms the whole tensor.")
              .at_least(0));
    visit(
        "rotations", self.rotations,
        Field("1, or 2 for an unbiased eden on sparse and peaky tensors.").at_least(1).at_most(2));
  }
};

class Hadamard final : public Stage {
 public:
  explicit Hadamard(const HadamardOptions& options)
      : block_(static_cast<size_t>(options.block)),
        rotations_(static_cast<uint64_t>(options.rotations)) {}

  size_t output_size(size_t n) const override {
    const size_t size = std::bit_ceil(n);
    return block_ > 0 ? std::max(size, kMinRotation) : size;
  }
  size_t max_bytes(size_t) const override { return 0; }
  size_t block() const override { return block_; }
  bool unbiased() const override { return true; }

  bool tells_small() const override { return true; }

  void encode(std::span<const float> in, Key key, std::span<float> out,
              Bytes& bytes) const override {
    BlockNotes notes;
    encode_noted(in, key, out, bytes, notes);
  }

  void encode_noted(std::span<const float> in, Key key, std::span<float> out, Bytes&,
                    BlockNotes& notes) const override {
    const float scale = scale_of(out.size());
    Rotation first;
    if (in.size() == out.size()) first = rotate(in, key.child(0), scale, out);
    if (first.done) {
      notes.small = first.small;
      if (rotations_ == 1) notes.range = first.range;
    } else {
      flip_signs(in, key.child(0), scale, out);
      fwht(out);
    }
    for (uint64_t r = 1; r < rotations_; ++r) {
      flip_signs(out, key.child(r), scale, out);
      fwht(out);
    }
  }

  void decode(std::span<float> in, std::span<const uint8_t>, Key key,
              std::span<float> out) const override {
    const float scale = scale_of(in.size());
    for (uint64_t r = rotations_ - 1; r > 0; --r) {
      fwht(in);
      flip_signs(in, key.child(r), scale, in);
    }
    fwht(in);
    flip_signs(in.first(out.size()), key.child(0), scale, out);
  }

 private:
  // Makes the transform orthonormal, hence its own inverse.
  static float scale_of(size_t size) {
    return static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)));
  }

  size_t block_;
  uint64_t rotations_;
};

std::unique_ptr<Stage> make_hadamard(const HadamardOptions& options, StageContext& context) {
  check_block("hadamard", options.block);
  context.rotations = options.rotations;
  context.rotated = context.gaussian = true;
  context.block = static_cast<size_t>(options.block);
  return std::make_unique<Hadamard>(options);
}

}  // namespace

StageRow hadamard_row() {
  return make_stage_row<HadamardOptions, make_hadamard>(
      "hadamard", 1, StageKind::kTransform,
      "random rotation: makes all coordinates alike and Gaussian");
}

}  // namespace espalier::codec

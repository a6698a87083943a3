#include <algorithm>
#include <bit>
#include <cmath>

#include "espalier/codec/fwht.h"
#include "espalier/codec/registry.h"
#include "espalier/params/parameter_set.h"

// Kashin's representation (Lyubarskii and Vershynin 2010; Caldas et al. 2018, section 3.1): x as a
// combination x = Uᵀa of N > n vectors of a tight frame, UᵀU = I, whose coefficients all have
// magnitude about ‖x‖/√n. They are found by clipping the residual's coefficients to a shrinking
// bound M and taking up what was cut off in the next round:
//   M = ‖x‖/√(δn); a = 0; r = x;  repeat: b = clip(U r, ±M); a += b; r −= Uᵀb; M *= η.
// In the last round nothing is clipped, so that x = Uᵀa holds exactly; with clip_last it is clipped
// too and a is rescaled so that ‖Uᵀa‖ = ‖x‖, which is biased.
//
// The frame is U v = H·place(d∘v)/√N with random signs d. We differ from the paper twice. We work
// in blocks (block = 0: the whole tensor). And where the paper puts the zeros at the end, we place
// v_i, for i < min(n, N − n), at i or at n + i as a random bit says: for n = N/2 zeros at the end
// make the two halves of U v equal, what is cut off comes back whole, and nothing gets flatter.
namespace espalier::codec {

namespace {

constexpr double kFullest = 0.85;  // a frame with n/N above this hardly flattens: N is doubled

struct KashinOptions {
  int64_t iterations = 3;
  double eta = 0.9;
  double delta = 1.0;
  bool clip_last = false;
  int64_t block = 1024;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("iterations", self.iterations,
          Field("Rounds, the last without clipping; 1 is hadamard with a larger frame.")
              .at_least(1)
              .at_most(32));
    visit("eta", self.eta, Field("Factor on the bound M after each round.").above(0).at_most(1));
    visit("delta", self.delta, Field("First bound: M = ‖x‖/√(delta·n).").above(0).at_most(16));
    visit("clip_last", self.clip_last,
          Field("Clip in the last round too and restore the norm: flatter, but biased."));
    visit(
        "block", self.block,
        Field("Values per block: 1024, 2048 or 4096; 0 transforms the whole tensor.").at_least(0));
  }
};

// U and Uᵀ for blocks of n values and N coefficients.
class Frame {
 public:
  Frame(size_t n, size_t size, Key key)
      : key_(key),
        scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)))),
        behind_(std::min(n, size - n)) {
    const AlignedVector<float> halves(behind_.size(), -0.5f);
    flip_signs(halves, key.child(1), 1, behind_);
    for (float& place : behind_) place += 0.5f;
  }

  // a = U v
  void analyze(std::span<const float> v, std::span<float> a) const {
    flip_signs(v, key_.child(0), scale_, a);
    for (size_t i = 0; i < behind_.size(); ++i) {
      a[v.size() + i] = a[i] * behind_[i];
      a[i] *= 1 - behind_[i];
    }
    fwht(a);
  }
  // v = Uᵀa; overwrites a.
  void synthesize(std::span<float> a, std::span<float> v) const {
    fwht(a);
    for (size_t i = 0; i < behind_.size(); ++i) {
      a[i] = a[i] * (1 - behind_[i]) + a[v.size() + i] * behind_[i];
    }
    flip_signs(a.first(v.size()), key_.child(0), scale_, v);
  }

 private:
  Key key_;
  float scale_;                  // makes the frame tight with constant 1
  AlignedVector<float> behind_;  // 1 where v_i stands at n + i, 0 where it stands at i
};

class Kashin final : public Stage {
 public:
  explicit Kashin(const KashinOptions& options) : options_(options) {}

  size_t output_size(size_t n) const override {
    const size_t size = std::bit_ceil(n);
    return static_cast<double>(n) > kFullest * static_cast<double>(size) ? 2 * size : size;
  }
  size_t max_bytes(size_t) const override { return 0; }
  size_t block() const override { return static_cast<size_t>(options_.block); }
  bool unbiased() const override { return !options_.clip_last; }

  void encode(std::span<const float> in, Key key, std::span<float> out, Bytes&) const override {
    const size_t n = in.size();
    const double norm = std::sqrt(squared_norm(in));
    double bound = norm / std::sqrt(options_.delta * static_cast<double>(n));
    AlignedVector<float> residual(in.begin(), in.end()), frame(out.size()), back(n);
    const Frame u(n, out.size(), key);
    std::fill(out.begin(), out.end(), 0.0f);
    for (int64_t round = 0; round < options_.iterations; ++round) {
      const bool last = round + 1 == options_.iterations;
      u.analyze(residual, frame);
      if (!last || options_.clip_last) {
        const auto limit = static_cast<float>(bound);
        for (float& value : frame) value = std::clamp(value, -limit, limit);
      }
      for (size_t i = 0; i < out.size(); ++i) out[i] += frame[i];
      if (last) break;
      u.synthesize(frame, back);
      for (size_t i = 0; i < n; ++i) residual[i] -= back[i];
      bound *= options_.eta;
    }
    if (options_.clip_last) {
      std::copy(out.begin(), out.end(), frame.begin());
      u.synthesize(frame, back);
      const double reached = std::sqrt(squared_norm(back));
      const auto factor = reached > 0 ? static_cast<float>(norm / reached) : 1.0f;
      for (float& value : out) value *= factor;
    }
  }

  void decode(std::span<float> in, std::span<const uint8_t>, Key key,
              std::span<float> out) const override {
    Frame(out.size(), in.size(), key).synthesize(in, out);
  }

 private:
  KashinOptions options_;
};

std::unique_ptr<Stage> make_kashin(const KashinOptions& options, StageContext& context) {
  check_block("kashin", options.block);
  context.rotated = true;
  context.block = static_cast<size_t>(options.block);
  return std::make_unique<Kashin>(options);
}

}  // namespace

StageRow kashin_row() {
  return make_stage_row<KashinOptions, make_kashin>(
      "kashin", 2, StageKind::kTransform,
      "flat coefficients of a redundant frame, for coarse quantization");
}

}  // namespace espalier::codec

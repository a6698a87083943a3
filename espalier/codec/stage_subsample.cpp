#include <algorithm>
#include <cmath>

#include "espalier/codec/registry.h"

// Keeps m = round(keep·N) coordinates (at least one) of a block of N, drawn without replacement
// from the key; the receiver draws them again, so no indices travel (Konečný et al. 2016, section
// 3). subsample scales by N/m and is unbiased; randomk does not, is a contraction, and is meant for
// error feedback (Stich et al. 2018). After a rotation all coordinates are alike, and a run of m
// neighbours from a random place on (around the end) is drawn instead: the same law for each
// coordinate, one piece of memory.
namespace espalier::codec {

namespace {

struct KeepOptions {
  double keep = 0.25;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("keep", self.keep, Field("Share of coordinates that travel.").above(0).at_most(1));
  }
};

// Calls visit(i, k) for the k-th kept coordinate i, in increasing order: selection sampling, every
// subset equally likely.
template <class Visit>
void select(Key key, size_t n, size_t kept, Visit&& visit) {
  Stream stream(key);
  for (size_t i = 0, k = 0; k < kept; ++i) {
    if (stream.below(n - i) < kept - k) visit(i, k++);
  }
}

class Subsample final : public Stage {
 public:
  Subsample(double keep, bool runs, bool scaled) : keep_(keep), runs_(runs), scaled_(scaled) {}

  size_t output_size(size_t n) const override {
    const auto kept = static_cast<size_t>(std::llround(keep_ * static_cast<double>(n)));
    return std::clamp(kept, std::min<size_t>(n, 1), n);
  }
  size_t max_bytes(size_t) const override { return 0; }
  bool unbiased() const override { return scaled_; }

  void encode(std::span<const float> in, Key key, std::span<float> out, Bytes&) const override {
    if (out.empty()) return;
    if (!runs_) {
      select(key, in.size(), out.size(), [&](size_t i, size_t k) { out[k] = in[i]; });
      return;
    }
    const size_t start = Stream(key).below(in.size());
    const size_t before_end = std::min(out.size(), in.size() - start);
    std::copy_n(in.begin() + static_cast<std::ptrdiff_t>(start), before_end, out.begin());
    std::copy_n(in.begin(), out.size() - before_end,
                out.begin() + static_cast<std::ptrdiff_t>(before_end));
  }

  void decode(std::span<float> in, std::span<const uint8_t>, Key key,
              std::span<float> out) const override {
    if (out.empty()) return;
    const float factor =
        scaled_
            ? static_cast<float>(static_cast<double>(out.size()) / static_cast<double>(in.size()))
            : 1.0f;
    std::fill(out.begin(), out.end(), 0.0f);
    if (!runs_) {
      select(key, out.size(), in.size(), [&](size_t i, size_t k) { out[i] = factor * in[k]; });
      return;
    }
    size_t i = Stream(key).below(out.size());
    for (const float value : in) {
      out[i] = factor * value;
      i = i + 1 == out.size() ? 0 : i + 1;
    }
  }

 private:
  double keep_;
  bool runs_, scaled_;
};

std::unique_ptr<Stage> make_subsample(const KeepOptions& options, StageContext& context) {
  context.sparsified = context.scaled_up = true;
  return std::make_unique<Subsample>(options.keep, context.rotated, true);
}

std::unique_ptr<Stage> make_randomk(const KeepOptions& options, StageContext& context) {
  context.sparsified = true;
  return std::make_unique<Subsample>(options.keep, context.rotated, false);
}

}  // namespace

StageRow subsample_row() {
  return make_stage_row<KeepOptions, make_subsample>("subsample", 3, StageKind::kSparsifier,
                                                     "random coordinates, scaled up: unbiased");
}

StageRow randomk_row() {
  return make_stage_row<KeepOptions, make_randomk>(
      "randomk", 9, StageKind::kSparsifier, "random coordinates as they are, for error feedback");
}

}  // namespace espalier::codec

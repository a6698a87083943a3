#include <algorithm>
#include <bit>
#include <cmath>

#include "espalier/codec/registry.h"

// Keeps the m = round(keep·n) values of greatest magnitude (at least one; of equals the earlier)
// and says which. Biased: meant for error feedback (Stich et al. 2018).
//
// Bytes: size of the rest (varint), Rice parameter k (u8), then for each kept value the number of
// dropped ones before it since the last kept one, as a Rice code, least significant bit first:
// quotient by 2^k in ones, a zero, k low bits. The gaps of a random set are geometric, for which
// this costs a few percent above n·H(keep) bits in all.
namespace espalier::codec {

namespace {

constexpr unsigned kMaxRice = 32;

struct TopKOptions {
  double keep = 0.01;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("keep", self.keep, Field("Share of values that travel.").above(0).at_most(1));
  }
};

class BitWriter {
 public:
  explicit BitWriter(Bytes& out) : out_(out) {}
  void put(uint64_t value, unsigned count) {  // count ≤ 32
    pending_ |= value << filled_;
    for (filled_ += count; filled_ >= 8; filled_ -= 8, pending_ >>= 8)
      out_.push_back(static_cast<uint8_t>(pending_));
  }
  void flush() {
    if (filled_ > 0) out_.push_back(static_cast<uint8_t>(pending_));
  }

 private:
  Bytes& out_;
  uint64_t pending_ = 0;
  unsigned filled_ = 0;
};

class BitReader {
 public:
  explicit BitReader(std::span<const uint8_t> in) : in_(in) {}
  uint64_t get(unsigned count) {  // count ≤ 32
    while (filled_ < count) {
      if (next_ == in_.size()) fail("codec/topk", "truncated positions");
      pending_ |= uint64_t{in_[next_++]} << filled_;
      filled_ += 8;
    }
    const uint64_t value = pending_ & ((uint64_t{1} << count) - 1);
    pending_ >>= count;
    filled_ -= count;
    return value;
  }
  void finish() const {
    if (next_ != in_.size() || pending_ != 0)
      fail("codec/topk", "unexpected bits after the positions");
  }

 private:
  std::span<const uint8_t> in_;
  uint64_t pending_ = 0;
  size_t next_ = 0;
  unsigned filled_ = 0;
};

uint32_t magnitude_bits(float value) { return std::bit_cast<uint32_t>(value) & 0x7fffffffu; }

class TopK final : public Stage {
 public:
  explicit TopK(double keep) : keep_(keep) {}

  size_t output_size(size_t n) const override {
    const auto kept = static_cast<size_t>(std::llround(keep_ * static_cast<double>(n)));
    return std::clamp(kept, std::min<size_t>(n, 1), n);
  }
  // k = ⌊log2(n/m)⌋ costs at most m·(1 + k) + (n − m)/2^k < m·(1 + k) + 2m bits, and the best k no
  // more.
  size_t max_bytes(size_t n) const override {
    if (n == 0) return 0;
    const size_t kept = output_size(n);
    return 16 + kept * (3 + static_cast<size_t>(std::bit_width(n / kept))) / 8;
  }
  std::span<const uint8_t> take(ByteReader& reader, size_t n) const override {
    return n == 0 ? std::span<const uint8_t>() : reader.take(get_varint(reader));
  }
  bool unbiased() const override { return false; }

  void encode(std::span<const float> in, Key, std::span<float> out, Bytes& bytes) const override {
    const size_t n = in.size(), kept = out.size();
    if (n == 0) return;
    std::vector<uint32_t> order(n);
    std::transform(in.begin(), in.end(), order.begin(), magnitude_bits);
    std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept - 1),
                     order.end(), std::greater<>());
    const uint32_t threshold = order[kept - 1];
    const auto above = static_cast<size_t>(std::count_if(
        in.begin(), in.end(), [&](float v) { return magnitude_bits(v) > threshold; }));
    size_t equals = kept - above;
    std::vector<uint64_t> gaps;
    gaps.reserve(kept);
    size_t next = 0;
    for (size_t i = 0; i < n; ++i) {
      const uint32_t magnitude = magnitude_bits(in[i]);
      if (magnitude < threshold || (magnitude == threshold && equals == 0)) continue;
      if (magnitude == threshold) --equals;
      out[gaps.size()] = in[i];
      gaps.push_back(i - next);
      next = i + 1;
    }

    unsigned best = 0;
    uint64_t least = UINT64_MAX;
    for (unsigned k = 0; k <= kMaxRice && (uint64_t{1} << k) <= n; ++k) {
      uint64_t cost = kept * (1 + k);
      for (const uint64_t gap : gaps) cost += gap >> k;
      if (cost < least) least = cost, best = k;
    }
    put_varint(bytes, 1 + (least + 7) / 8);
    bytes.push_back(static_cast<uint8_t>(best));
    BitWriter writer(bytes);
    for (const uint64_t gap : gaps) {
      uint64_t quotient = gap >> best;
      for (; quotient >= 32; quotient -= 32) writer.put(0xffffffffu, 32);
      writer.put((uint64_t{1} << quotient) - 1, static_cast<unsigned>(quotient) + 1);
      writer.put(gap & ((uint64_t{1} << best) - 1), best);
    }
    writer.flush();
  }

  void decode(std::span<float> in, std::span<const uint8_t> bytes, Key,
              std::span<float> out) const override {
    if (out.empty()) return;
    std::fill(out.begin(), out.end(), 0.0f);
    if (bytes.empty() || bytes[0] > kMaxRice) fail("codec/topk", "impossible Rice parameter");
    const unsigned k = bytes[0];
    BitReader reader(bytes.subspan(1));
    size_t next = 0;
    for (const float value : in) {
      uint64_t gap = 0;
      while (reader.get(1) != 0) ++gap;
      gap = (gap << k) | reader.get(k);
      if (gap >= out.size() - next)
        fail("codec/topk", "a position beyond the end of ", out.size(), " values");
      next += gap;
      out[next++] = value;
    }
    reader.finish();
  }

 private:
  double keep_;
};

std::unique_ptr<Stage> make_topk(const TopKOptions& options, StageContext& context) {
  if (context.rotated) {
    fail("codec/topk",
         "after a rotation all coordinates are alike and the greatest say nothing; leave the "
         "transform out, or use subsample");
  }
  context.sparsified = true;
  return std::make_unique<TopK>(options.keep);
}

}  // namespace

StageRow topk_row() {
  return make_stage_row<TopKOptions, make_topk>("topk", 8, StageKind::kSparsifier,
                                                "values of greatest magnitude, for error feedback");
}

}  // namespace espalier::codec

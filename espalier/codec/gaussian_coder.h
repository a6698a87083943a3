#pragma once

#include <algorithm>
#include <cstring>

#include "espalier/codec/registry.h"

// What the stages around eden.h, dithered.h and trellis.h share: codes made for coordinates of a
// rotated block, which are close to N(0, σ²), with one scale per block of at most 4096.
namespace espalier::codec {

inline size_t coder_block(const StageContext& context) {
  return context.block == 0 || context.sparsified ? size_t{4096}
                                                  : std::min(context.block, size_t{4096});
}

inline void refuse_frame(std::string_view stage, const StageContext& context) {
  if (context.rotated && !context.gaussian) {
    fail(concat("codec/", stage),
         "kashin's flat coefficients are not Gaussian; use hadamard before ", stage,
         ", or quantize after kashin");
  }
}

inline void require_rotation(std::string_view stage, const StageContext& context) {
  if (!context.gaussian)
    fail(concat("codec/", stage),
         "its levels are made for rotated coordinates; put hadamard before it");
}

inline void refuse_scaled_up(std::string_view stage, const StageContext& context) {
  if (context.scaled_up) {
    fail(concat("codec/", stage),
         "it is biased, and what subsample scales up is then neither unbiased nor fit for error "
         "feedback; "
         "use randomk, or an unbiased coder");
  }
}

inline constexpr size_t kSizePrefix = 4;

// Calls `write`, which appends to `bytes`, and puts the number of bytes before them.
template <class Write>
void put_sized(Bytes& bytes, Write&& write) {
  const size_t at = bytes.size();
  bytes.resize(at + kSizePrefix);
  write();
  const auto size = static_cast<uint32_t>(bytes.size() - at - kSizePrefix);
  std::memcpy(bytes.data() + at, &size, kSizePrefix);
}

// A stage that codes all blocks of a unit together, by an entropy coder. Bytes of a unit: size of
// the rest (u32), then what Code writes.
template <class Code>
class EntropyCoder : public Stage {
 public:
  EntropyCoder(double bits, size_t block) : code_(bits), block_(block) {}

  size_t output_size(size_t) const override { return 0; }
  size_t max_bytes(size_t n) const override {
    return kSizePrefix + Code::max_encoded_bytes(n, block_);
  }
  std::span<const uint8_t> take(ByteReader& reader, size_t) const override {
    return reader.take(reader.get<uint32_t>());
  }
  size_t block() const override { return block_; }
  bool spans_blocks() const override { return true; }

 protected:
  Code code_;
  size_t block_;
};

}  // namespace espalier::codec

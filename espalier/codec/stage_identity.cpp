#include <cstring>

#include "espalier/codec/registry.h"

// float32 as it is. It ends every pipeline that has no other coder.
namespace espalier::codec {

namespace {

struct IdentityOptions {
  template <class Self, class Visitor>
  static void fields(Self&, Visitor&&) {}
};

class Identity final : public Stage {
 public:
  size_t output_size(size_t) const override { return 0; }
  size_t max_bytes(size_t n) const override { return n * sizeof(float); }
  size_t block() const override {
    return size_t{1} << 14;
  }  // of no consequence: keeps a block in cache
  bool unbiased() const override { return true; }
  bool lossless() const override { return true; }

  void encode(std::span<const float> in, Key, std::span<float>, Bytes& bytes) const override {
    ByteWriter(bytes).array(in);
  }
  void decode(std::span<float>, std::span<const uint8_t> bytes, Key,
              std::span<float> out) const override {
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  }
};

std::unique_ptr<Stage> make_identity(const IdentityOptions&, StageContext&) {
  return std::make_unique<Identity>();
}

}  // namespace

StageRow identity_row() {
  return make_stage_row<IdentityOptions, make_identity>("identity", 0, StageKind::kIdentity,
                                                        "float32 as it is");
}

}  // namespace espalier::codec

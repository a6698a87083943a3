// Checkpoints of training under a mask.
#include "espalier/base/error.h"
#include "espalier/strategy/pruning.h"

namespace espalier::strategy {

void Pruning::save(ByteWriter& out) const {
  out.put(static_cast<uint8_t>(whole_mask_ != nullptr));
  out.put(exploration_epochs_);
  if (whole_mask_ != nullptr) {
    out.put(whole_mask_->round);
    out.put(static_cast<uint64_t>(whole_mask_->bytes.size()));
    out.bytes(whole_mask_->bytes);
    // Not to be worked out from the mask again: it has the removed units' other weights in it.
    out.put(static_cast<uint32_t>(part_ != nullptr ? part_->kept().size() : 0));
    if (part_ != nullptr) {
      for (const auto& units : part_->kept()) {
        out.put(static_cast<uint32_t>(units.size()));
        for (const uint32_t unit : units) out.put(unit);
      }
    }
  }
  if (!velocity_.empty()) write_values(velocity_, out);
}

void Pruning::load(ByteReader& in) {
  whole_mask_ = part_mask_ = nullptr;
  part_ = nullptr;
  const bool has_mask = in.get<uint8_t>() != 0;
  exploration_epochs_ = in.get<double>();
  if (has_mask) {
    const auto since = in.get<uint32_t>();
    prune::Mask mask = prune::decode_mask(in.take(in.get<uint64_t>()), layout(), in.where());
    std::vector<std::vector<uint32_t>> kept;
    const auto groups = in.get<uint32_t>();
    if (groups > layout()->groups().size())
      fail(in.where(), "units of ", groups, " groups, of which the model has fewer");
    for (uint32_t g = 0; g < groups; ++g) {
      const auto count = in.get<uint32_t>();
      if (count > layout()->groups()[g].size)
        fail(in.where(), "expected at most ", layout()->groups()[g].size, " units, got ", count);
      for (uint32_t i = 0; i < count; ++i) {
        if (i == 0) kept.emplace_back();
        kept.back().push_back(in.get<uint32_t>());
      }
    }
    install(std::move(mask), std::move(kept), since);
  }
  if (!velocity_.empty()) read_values(in, velocity_);
}

}  // namespace espalier::strategy

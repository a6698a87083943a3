#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/params/parameter_set.h"
#include "espalier/submodel/submodel.h"

namespace espalier::prune {

// An element-wise keep/prune decision over a layout: one bit per value. Immutable; shared by the
// tasks that use it.
//
// The kept values alone form the compact layout, which is what travels: a tensor that is kept whole
// keeps its shape, of any other one the kept values are a vector under its name and role, in order
// (of size 0 when nothing is kept). The compact layout has no unit groups.
class Mask {
 public:
  // Bit i % 64 of words[i / 64] is set when value i of the layout is kept; bits past the end are
  // ignored.
  Mask(std::shared_ptr<const ParameterLayout> layout, std::vector<uint64_t> words);
  // Keeps everything.
  static Mask all(std::shared_ptr<const ParameterLayout> layout);
  // Keeps the values that are not zero (neither 0 nor −0): what an update has to say.
  static Mask support(const ParameterSet& values);
  // Keeps every row (first axis; a tensor of rank 0 or 1 is one row per value) that has a value
  // that is not zero.
  static Mask row_support(const ParameterSet& values);
  // What either of two masks of one layout keeps, and what both keep.
  static Mask either(const Mask& a, const Mask& b);
  static Mask both(const Mask& a, const Mask& b);

  const std::shared_ptr<const ParameterLayout>& layout() const { return layout_; }
  const std::shared_ptr<const ParameterLayout>& compact_layout() const { return compact_; }
  const std::vector<uint64_t>& words() const { return words_; }
  bool keeps(size_t index) const { return (words_[index / 64] >> (index % 64) & 1) != 0; }
  uint64_t kept() const { return kept_; }
  // Of the layout's tensor number t.
  uint64_t kept(size_t tensor) const { return kept_by_tensor_[tensor]; }
  bool whole() const { return kept_ == static_cast<uint64_t>(layout_->size()); }

  // Writes +0 over every pruned value; the others keep their bits. values: layout().size().
  void apply(std::span<float> values) const;
  // The kept values of a set of layout(), and back with +0 at the pruned ones.
  ParameterSet compact(const ParameterSet& full) const;
  ParameterSet expand(const ParameterSet& compact) const;
  // The same into `out`, whose memory is used again when it has the layout; fresh memory costs more
  // than the copy.
  void compact(const ParameterSet& full, ParameterSet& out) const;
  void expand(const ParameterSet& compact, ParameterSet& out) const;
  // The mask of a part of the model: bit i is that of the full value that value i of the part is.
  Mask extract(const submodel::Submodel& part) const;

  friend bool operator==(const Mask& a, const Mask& b) {
    return *a.layout_ == *b.layout_ && a.words_ == b.words_;
  }

 private:
  std::shared_ptr<const ParameterLayout> layout_, compact_;
  std::vector<uint64_t> words_;  // bits past the end are 0
  uint64_t kept_ = 0;
  std::vector<uint64_t> kept_by_tensor_;
};

// A mask as bytes, entropy-coded near n·H(share kept) bits per tensor, and back. Tensors that are
// kept whole or pruned whole take a byte, tensors of which whole rows are kept about a bit per row.
// docs/format.md describes the bytes. decode_mask takes any bytes from anybody and throws Error
// unless they are exactly one mask of this layout; its memory is the layout's.
void encode_mask(const Mask& mask, Bytes& out);
Mask decode_mask(std::span<const uint8_t> bytes, std::shared_ptr<const ParameterLayout> layout,
                 std::string_view where);

}  // namespace espalier::prune

#include "espalier/prune/mask.h"

#include "espalier/base/error.h"
#include "espalier/prune/bits.h"
#include "espalier/prune/mask_kernel.h"

namespace espalier::prune {
namespace {

// For the processor's own instruction where it has one.
ESPALIER_KERNEL uint64_t count_words(const uint64_t* words, size_t count) {
  uint64_t total = 0;
  for (size_t w = 0; w < count; ++w) total += static_cast<uint64_t>(std::popcount(words[w]));
  return total;
}

std::vector<uint64_t> empty_words(const ParameterLayout& layout) {
  return std::vector<uint64_t>(num_words(static_cast<size_t>(layout.size())), 0);
}

size_t begin_of(const ParameterInfo& tensor) { return static_cast<size_t>(tensor.offset); }
size_t end_of(const ParameterInfo& tensor) {
  return static_cast<size_t>(tensor.offset + tensor.size);
}

}  // namespace

uint64_t count_bits(std::span<const uint64_t> words, size_t begin, size_t end) {
  if (begin >= end) return 0;
  const size_t first = begin / 64, last = (end - 1) / 64;
  const uint64_t head = ~low_bits(begin % 64), tail = low_bits((end - 1) % 64 + 1);
  const auto ones = [](uint64_t word) { return static_cast<uint64_t>(std::popcount(word)); };
  if (first == last) return ones(words[first] & head & tail);
  return ones(words[first] & head) + count_words(words.data() + first + 1, last - first - 1) +
         ones(words[last] & tail);
}

Mask::Mask(std::shared_ptr<const ParameterLayout> layout, std::vector<uint64_t> words)
    : layout_(std::move(layout)), words_(std::move(words)) {
  const auto size = static_cast<size_t>(layout_->size());
  ESPALIER_CHECK(words_.size() == num_words(size), words_.size(), " words for ", size, " values");
  if (size % 64 != 0) words_.back() &= low_bits(size % 64);
  std::vector<ParameterInfo> tensors;
  for (const ParameterInfo& tensor : layout_->tensors()) {
    const uint64_t kept = count_bits(words_, begin_of(tensor), end_of(tensor));
    kept_by_tensor_.push_back(kept);
    kept_ += kept;
    const bool all = kept == static_cast<uint64_t>(tensor.size);
    tensors.push_back(
        {.name = tensor.name,
         .shape = all ? tensor.shape : std::vector<int64_t>{static_cast<int64_t>(kept)},
         .role = tensor.role});
  }
  compact_ = std::make_shared<const ParameterLayout>(std::move(tensors));
}

Mask Mask::all(std::shared_ptr<const ParameterLayout> layout) {
  std::vector<uint64_t> words(num_words(static_cast<size_t>(layout->size())), ~uint64_t{0});
  return Mask(std::move(layout), std::move(words));
}

Mask Mask::support(const ParameterSet& values) {
  std::vector<uint64_t> words = empty_words(values.layout());
  nonzero_bits(values.values().data(), values.size(), words.data());
  return Mask(values.shared_layout(), std::move(words));
}

Mask Mask::row_support(const ParameterSet& values) {
  std::vector<uint64_t> words = empty_words(values.layout());
  nonzero_bits(values.values().data(), values.size(), words.data());
  for (const ParameterInfo& tensor : values.layout().tensors()) {
    if (tensor.shape.size() < 2 || tensor.size == 0) continue;
    const auto columns = static_cast<size_t>(tensor.size / tensor.shape[0]);
    for (size_t row = begin_of(tensor); row < end_of(tensor); row += columns) {
      if (any_bits(words, row, row + columns)) set_bits(words, row, row + columns);
    }
  }
  return Mask(values.shared_layout(), std::move(words));
}

Mask Mask::either(const Mask& a, const Mask& b) {
  ESPALIER_CHECK(*a.layout_ == *b.layout_);
  std::vector<uint64_t> words = a.words_;
  for (size_t w = 0; w < words.size(); ++w) words[w] |= b.words_[w];
  return Mask(a.layout_, std::move(words));
}

Mask Mask::both(const Mask& a, const Mask& b) {
  ESPALIER_CHECK(*a.layout_ == *b.layout_);
  std::vector<uint64_t> words = a.words_;
  for (size_t w = 0; w < words.size(); ++w) words[w] &= b.words_[w];
  return Mask(a.layout_, std::move(words));
}

void Mask::apply(std::span<float> values) const {
  ESPALIER_CHECK(values.size() == static_cast<size_t>(layout_->size()), values.size());
  zero_unset(words_.data(), 0, values.data(), values.size());
}

// Tensors follow each other in both layouts, so the compact values are the full ones without the
// pruned, whatever the tensors.
void Mask::compact(const ParameterSet& full, ParameterSet& out) const {
  ESPALIER_CHECK(full.layout() == *layout_);
  if (out.empty() || out.layout() != *compact_) out = ParameterSet(compact_);
  compress(words_.data(), full.values().data(), full.size(), out.values().data(), out.size());
}

ParameterSet Mask::compact(const ParameterSet& full) const {
  ParameterSet out(compact_);
  compact(full, out);
  return out;
}

void Mask::expand(const ParameterSet& compact, ParameterSet& out) const {
  ESPALIER_CHECK(compact.layout() == *compact_);
  if (out.empty() || out.layout() != *layout_) {
    out = ParameterSet(layout_);
  } else {
    apply(out.values());
  }
  expand_into_zeros(words_.data(), compact.values().data(), compact.size(), out.values().data(),
                    out.size());
}

ParameterSet Mask::expand(const ParameterSet& compact) const {
  ParameterSet out;
  expand(compact, out);
  return out;
}

Mask Mask::extract(const submodel::Submodel& part) const {
  ESPALIER_CHECK(*part.full_layout() == *layout_);
  std::vector<uint64_t> words = empty_words(*part.layout());
  BitWriter writer(words);
  for (const CoordinateMap::Block& block : part.map().blocks()) {
    const auto copy = [&](size_t from, size_t count) {
      for (; count > 0; from += 64) {
        const size_t step = std::min<size_t>(count, 64);
        writer.put(bits_at(words_, from, step), step);
        count -= step;
      }
    };
    for (const uint32_t r : block.rows) {
      const size_t row = block.full_offset + r * block.full_columns;
      if (block.whole_rows()) {
        copy(row, block.full_columns);
      } else if (!block.runs.empty()) {
        for (const CoordinateMap::Run& run : block.runs) copy(row + run.full, run.count);
      } else {
        for (const uint32_t column : block.columns) writer.put(keeps(row + column) ? 1 : 0, 1);
      }
    }
  }
  return Mask(part.layout(), std::move(words));
}

}  // namespace espalier::prune

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/large_blocks.h"
#include "espalier/params/layout.h"

namespace espalier {

// 64-byte aligned storage, so that vector kernels may use aligned loads.
template <class T>
using AlignedVector = std::vector<T, BlockAllocator<T, 64>>;

// The values of a model, an update, a control variate or any other named tensors: one contiguous
// float32 buffer and the layout that says what stands where. Copyable; copying copies the values
// and shares the layout.
class ParameterSet {
 public:
  ParameterSet() = default;
  // All zeros.
  explicit ParameterSet(std::shared_ptr<const ParameterLayout> layout);
  // A copy of `values`, layout->size() of them.
  ParameterSet(std::shared_ptr<const ParameterLayout> layout, std::span<const float> values);
  // Unspecified values, for who writes all of them.
  static ParameterSet unset(std::shared_ptr<const ParameterLayout> layout);

  bool empty() const { return layout_ == nullptr; }
  const ParameterLayout& layout() const { return *layout_; }
  const std::shared_ptr<const ParameterLayout>& shared_layout() const { return layout_; }

  std::span<float> values() { return values_; }
  std::span<const float> values() const { return values_; }
  std::span<float> values(const ParameterInfo& tensor) {
    return std::span(values_).subspan(static_cast<size_t>(tensor.offset),
                                      static_cast<size_t>(tensor.size));
  }
  std::span<const float> values(const ParameterInfo& tensor) const {
    return std::span(values_).subspan(static_cast<size_t>(tensor.offset),
                                      static_cast<size_t>(tensor.size));
  }
  // By name; a missing name is our bug.
  std::span<float> values(std::string_view name);
  std::span<const float> values(std::string_view name) const;

  size_t size() const { return values_.size(); }

 private:
  std::shared_ptr<const ParameterLayout> layout_;
  std::vector<float, UnsetAllocator<float, 64>> values_;
};

// The values as bytes (u64 count, then float32), for checkpoints; read_values throws Error when the
// count is not the set's.
void write_values(const ParameterSet& set, ByteWriter& out);
void read_values(ByteReader& in, ParameterSet& set);

// Plain elementwise operations on equally long spans.
void subtract(std::span<const float> a, std::span<const float> b,
              std::span<float> out);                                         // out = a − b
void add_scaled(std::span<float> y, float scale, std::span<const float> x);  // y += scale·x
double squared_norm(std::span<const float> x);                               // Σ x², in double
bool all_finite(std::span<const float> x);

}  // namespace espalier

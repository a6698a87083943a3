#include "espalier/params/parameter_set.h"

#include <bit>

#include "espalier/base/error.h"
#include "espalier/base/simd.h"

namespace espalier {

ParameterSet ParameterSet::unset(std::shared_ptr<const ParameterLayout> layout) {
  ParameterSet set;
  set.layout_ = std::move(layout);
  set.values_.resize(static_cast<size_t>(set.layout_->size()));
  return set;
}

ParameterSet::ParameterSet(std::shared_ptr<const ParameterLayout> layout)
    : layout_(std::move(layout)), values_(static_cast<size_t>(layout_->size()), 0.0f) {}

ParameterSet::ParameterSet(std::shared_ptr<const ParameterLayout> layout,
                           std::span<const float> values)
    : layout_(std::move(layout)), values_(values.begin(), values.end()) {
  ESPALIER_CHECK(static_cast<int64_t>(values_.size()) == layout_->size(), values_.size(),
                 " values for ", layout_->size());
}

std::span<float> ParameterSet::values(std::string_view name) {
  const ParameterInfo* tensor = layout_->find(name);
  ESPALIER_CHECK(tensor != nullptr, name);
  return values(*tensor);
}

std::span<const float> ParameterSet::values(std::string_view name) const {
  const ParameterInfo* tensor = layout_->find(name);
  ESPALIER_CHECK(tensor != nullptr, name);
  return values(*tensor);
}

void write_values(const ParameterSet& set, ByteWriter& out) {
  out.put(static_cast<uint64_t>(set.size()));
  out.array(set.values());
}

void read_values(ByteReader& in, ParameterSet& set) {
  const auto size = in.get<uint64_t>();
  if (size != set.size())
    fail(in.where(), "expected ", set.size(), " values, got ", size, "; is this another model?");
  in.array(set.values());
}

namespace {
// `out` may be `a`.
ESPALIER_KERNEL void subtract_values(const float* a, const float* b, float* out, size_t count) {
  for (size_t i = 0; i < count; ++i) out[i] = a[i] - b[i];
}
}  // namespace

void subtract(std::span<const float> a, std::span<const float> b, std::span<float> out) {
  ESPALIER_CHECK(a.size() == b.size() && a.size() == out.size());
  subtract_values(a.data(), b.data(), out.data(), a.size());
}

void add_scaled(std::span<float> y, float scale, std::span<const float> x) {
  ESPALIER_CHECK(y.size() == x.size());
  for (size_t i = 0; i < y.size(); ++i) y[i] += scale * x[i];
}

double squared_norm(std::span<const float> x) {
  double lanes[8] = {};  // Fixed lanes: fast, and the order of summation is part of the result.
  size_t i = 0;
  for (; i + 8 <= x.size(); i += 8) {
    for (size_t j = 0; j < 8; ++j)
      lanes[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  }
  for (; i < x.size(); ++i) lanes[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
         ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

bool all_finite(std::span<const float> x) {
  uint32_t bad = 0;
  for (float value : x)
    bad |= static_cast<uint32_t>((std::bit_cast<uint32_t>(value) & 0x7f800000u) == 0x7f800000u);
  return bad == 0;
}

}  // namespace espalier

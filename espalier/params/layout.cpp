#include "espalier/params/layout.h"

#include <unordered_set>

#include "espalier/base/error.h"

namespace espalier {

std::string_view role_name(Role role) {
  switch (role) {
    case Role::kWeight:
      return "weight";
    case Role::kBias:
      return "bias";
    case Role::kNorm:
      return "norm";
    case Role::kEmbedding:
      return "embedding";
    case Role::kStatistic:
      return "statistic";
    case Role::kCounter:
      return "counter";
  }
  return "unknown";
}

namespace {

void check_units(const ParameterInfo& tensor, const std::vector<UnitGroup>& groups) {
  int axis = 0;
  int64_t end = 0;  // of the part before, on the same axis
  for (const AxisUnits& part : tensor.units) {
    const bool known = part.axis >= axis && part.axis < static_cast<int>(tensor.shape.size()) &&
                       part.group >= 0 && part.group < static_cast<int>(groups.size()) &&
                       part.blocks >= 1 && part.repeat >= 1;
    if (known) {
      if (part.axis != axis) end = 0;
      axis = part.axis;
      const int64_t size = groups[static_cast<size_t>(part.group)].size;
      const int64_t extent = tensor.shape[static_cast<size_t>(axis)];
      // In an order in which nothing overflows.
      if (part.offset >= end && part.offset <= extent && size >= 1 && size <= extent &&
          part.blocks <= extent / size && part.repeat <= extent / (part.blocks * size) &&
          part.blocks * size * part.repeat <= extent - part.offset) {
        end = part.offset + part.blocks * size * part.repeat;
        continue;
      }
    }
    fail("params/layout", "units of group ", part.group, " do not fit axis ", part.axis, " of '",
         tensor.name, "' of shape ", shape_text(tensor.shape));
  }
}

}  // namespace

ParameterLayout::ParameterLayout(std::vector<ParameterInfo> tensors, std::vector<UnitGroup> groups)
    : tensors_(std::move(tensors)), groups_(std::move(groups)) {
  constexpr int64_t kMaxValues = int64_t{1} << 40;
  std::unordered_set<std::string_view> names;
  for (ParameterInfo& tensor : tensors_) {
    if (!names.insert(tensor.name).second)
      fail("params/layout", "two tensors are called '", tensor.name, "'");
    int64_t count = 1;
    for (int64_t dimension : tensor.shape) {
      if (dimension < 0 || (dimension > 0 && count > kMaxValues / dimension)) {
        fail("params/layout", "impossible shape ", shape_text(tensor.shape), " of '", tensor.name,
             "'");
      }
      count *= dimension;
    }
    check_units(tensor, groups_);
    tensor.offset = size_;
    tensor.size = count;
    size_ += count;
    if (size_ > kMaxValues) fail("params/layout", "more than 2^40 values");
  }
}

std::vector<int64_t> ParameterLayout::group_sizes() const {
  std::vector<int64_t> sizes;
  for (const UnitGroup& group : groups_) sizes.push_back(group.size);
  return sizes;
}

std::shared_ptr<const ParameterLayout> narrow_layout(const ParameterLayout& layout,
                                                     std::span<const int64_t> units) {
  std::vector<UnitGroup> groups = layout.groups();
  if (units.size() != groups.size()) {
    fail("params/layout", "expected units for ", groups.size(), " groups, got ", units.size());
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    if (units[g] < 1 || units[g] > groups[g].size) {
      fail("params/layout", "expected 1 to ", groups[g].size, " units of '", groups[g].name,
           "', got ", units[g]);
    }
    groups[g].size = units[g];
  }
  std::vector<ParameterInfo> tensors = layout.tensors();
  for (ParameterInfo& tensor : tensors) {
    int axis = -1;
    int64_t removed = 0;  // indices before this part on its axis
    for (AxisUnits& part : tensor.units) {
      if (part.axis != axis) removed = 0;
      axis = part.axis;
      const auto g = static_cast<size_t>(part.group);
      const int64_t fewer = part.blocks * part.repeat * (layout.groups()[g].size - groups[g].size);
      part.offset -= removed;
      removed += fewer;
      tensor.shape[static_cast<size_t>(axis)] -= fewer;
    }
  }
  return std::make_shared<const ParameterLayout>(std::move(tensors), std::move(groups));
}

int64_t ParameterLayout::num_trainable() const {
  int64_t count = 0;
  for (const ParameterInfo& tensor : tensors_) count += is_trainable(tensor.role) ? tensor.size : 0;
  return count;
}

const ParameterInfo* ParameterLayout::find(std::string_view name) const {
  for (const ParameterInfo& tensor : tensors_) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += concat(i > 0 ? ", " : "", shape[i]);
  return text + "]";
}

}  // namespace espalier

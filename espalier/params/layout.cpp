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

ParameterLayout::ParameterLayout(std::vector<ParameterInfo> tensors)
    : tensors_(std::move(tensors)) {
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
    tensor.offset = size_;
    tensor.size = count;
    size_ += count;
    if (size_ > kMaxValues) fail("params/layout", "more than 2^40 values");
  }
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

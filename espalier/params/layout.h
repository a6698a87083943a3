#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

// A ParameterLayout says what stands where in a model's one contiguous float32 buffer: the names,
// shapes, offsets and roles of its tensors, in a fixed order. It is immutable and shared by every
// ParameterSet of the model.
namespace espalier {

// How a tensor is trained, compressed and aggregated. The values are part of the wire format: only
// append.
enum class Role : uint8_t {
  kWeight = 0,     // dense or convolutional weight; trained; compressed
  kBias = 1,       // trained; travels as float32
  kNorm = 2,       // scale or shift of a normalization; trained; travels as float32
  kEmbedding = 3,  // trained; compressed
  kStatistic = 4,  // running mean or variance: not trained; averaged like a weight unless kept
                   // local to the client
  kCounter = 5,    // integer buffer (num_batches_tracked): not trained; aggregated as the rounded
                   // weighted mean
};
std::string_view role_name(Role role);

// Whether the optimizer changes a tensor of this role.
constexpr bool is_trainable(Role role) { return role <= Role::kEmbedding; }

struct ParameterInfo {
  std::string name;            // unique, e.g. "conv1.weight"
  std::vector<int64_t> shape;  // empty for a scalar; row-major
  Role role = Role::kWeight;
  int64_t offset = 0;  // of the first value in the buffer; set by the layout
  int64_t size = 0;    // number of values; set by the layout

  friend bool operator==(const ParameterInfo&, const ParameterInfo&) = default;
};

class ParameterLayout {
 public:
  // Sizes and offsets are computed here: tensors follow each other without gaps, in the given
  // order. Throws Error on a duplicate name, a negative dimension or more than 2^40 values.
  explicit ParameterLayout(std::vector<ParameterInfo> tensors);

  const std::vector<ParameterInfo>& tensors() const { return tensors_; }
  // Number of values of all tensors.
  int64_t size() const { return size_; }
  // Number of values of trainable tensors: a model's parameter count.
  int64_t num_trainable() const;
  // The tensor with this name, or nullptr.
  const ParameterInfo* find(std::string_view name) const;

  friend bool operator==(const ParameterLayout& a, const ParameterLayout& b) {
    return a.tensors_ == b.tensors_;
  }

 private:
  std::vector<ParameterInfo> tensors_;
  int64_t size_ = 0;
};

// "[32, 1, 5, 5]"
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace espalier

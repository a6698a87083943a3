#pragma once

#include <cstdint>
#include <memory>
#include <span>
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

// Coupled channels or neurons: unit u of the group is the same unit on every axis that names the
// group, and is kept or dropped on all of them together.
struct UnitGroup {
  std::string name;  // of the layer that computes the units, e.g. "conv1"
  int64_t size = 0;  // number of units

  friend bool operator==(const UnitGroup&, const UnitGroup&) = default;
};

// Where a group's units stand on one axis of a tensor: from index `offset` on, `blocks` times one
// after the other, every unit `repeat` indices wide. An LSTM's four gates are 4 blocks; a channel
// of H×W pixels that was flattened repeats H·W times. Indices that no AxisUnits covers belong to no
// unit and always stay.
struct AxisUnits {
  int axis = 0;
  int group = 0;  // index into ParameterLayout::groups()
  int64_t blocks = 1, repeat = 1;
  int64_t offset = 0;

  friend bool operator==(const AxisUnits&, const AxisUnits&) = default;
};

struct ParameterInfo {
  std::string name;            // unique, e.g. "conv1.weight"
  std::vector<int64_t> shape;  // empty for a scalar; row-major
  Role role = Role::kWeight;
  int64_t offset = 0;  // of the first value in the buffer; set by the layout
  int64_t size = 0;    // number of values; set by the layout
  // In order of axis and offset; empty: the tensor is always whole.
  std::vector<AxisUnits> units = {};

  // What a receiver must agree on. Units are the sender's business: they do not travel.
  friend bool operator==(const ParameterInfo& a, const ParameterInfo& b) {
    return a.name == b.name && a.shape == b.shape && a.role == b.role;
  }
};

class ParameterLayout {
 public:
  // Sizes and offsets are computed here: tensors follow each other without gaps, in the given
  // order. Throws Error on a duplicate name, a negative dimension, more than 2^40 values, or units
  // that do not fit their axis.
  explicit ParameterLayout(std::vector<ParameterInfo> tensors, std::vector<UnitGroup> groups = {});

  const std::vector<ParameterInfo>& tensors() const { return tensors_; }
  // The model's unit groups; empty when it states none.
  const std::vector<UnitGroup>& groups() const { return groups_; }
  std::vector<int64_t> group_sizes() const;
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
  std::vector<UnitGroup> groups_;
  int64_t size_ = 0;
};

// The layout of the same model with units[g] units in group g, 1 ≤ units[g] ≤ the group's size.
// Throws Error otherwise.
std::shared_ptr<const ParameterLayout> narrow_layout(const ParameterLayout& layout,
                                                     std::span<const int64_t> units);

// "[32, 1, 5, 5]"
std::string shape_text(const std::vector<int64_t>& shape);

// Applies fn(begin, end) to each run of trainable values (weights, biases, norms, embeddings) of
// the layout.
template <class Function>
void for_trainable(const ParameterLayout& layout, Function&& fn) {
  for (const ParameterInfo& tensor : layout.tensors()) {
    if (is_trainable(tensor.role)) {
      fn(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.offset + tensor.size));
    }
  }
}

}  // namespace espalier

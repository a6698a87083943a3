#include "espalier/train/fixed_tensors.h"

#include <algorithm>
#include <cstring>

#include "espalier/base/error.h"

namespace espalier::train {
namespace {

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace

Bytes write_weights(const ParameterSet& weights, const FixedTensors& fixed,
                    const std::map<std::string, std::string>& metadata) {
  if (fixed.values.empty()) return write_safetensors(weights, metadata);
  std::vector<ParameterInfo> tensors = weights.layout().tensors();
  for (const ParameterInfo& tensor : fixed.values.layout().tensors()) tensors.push_back(tensor);
  for (ParameterInfo& tensor : tensors) tensor.units.clear();
  ParameterSet all(std::make_shared<const ParameterLayout>(std::move(tensors)));
  std::ranges::copy(weights.values(), all.values().begin());
  std::ranges::copy(fixed.values.values(),
                    all.values().begin() + static_cast<std::ptrdiff_t>(weights.size()));
  return write_safetensors(all, metadata);
}

void read_weights(const SafetensorsFile& file, const FixedTensors& fixed, ParameterSet& weights) {
  if (fixed.none()) return read_parameters(file, weights);
  std::map<std::string, std::string> first = fixed.other_names;  // name in the file → the tensor's
  for (const ParameterInfo& tensor : weights.layout().tensors()) first[tensor.name] = tensor.name;
  if (!fixed.values.empty()) {
    for (const ParameterInfo& tensor : fixed.values.layout().tensors())
      first[tensor.name] = tensor.name;
  }
  std::map<std::string, std::string> read;  // tensor → the name under which it was found first
  for (const auto& [name, view] : file.tensors()) {
    const auto known = first.find(name);
    if (known == first.end())
      fail(file.where(), "the model has no tensor '", name, "'; is this another model?");
    const std::string& tensor = known->second;
    const ParameterInfo* info = weights.layout().find(tensor);
    const bool kept = info == nullptr;
    if (kept) info = fixed.values.layout().find(tensor);
    if (view.shape != info->shape) {
      fail(file.where(), "expected shape ", shape_text(info->shape), " for '", name, "', got ",
           shape_text(view.shape));
    }
    const AlignedVector<float> values =
        kept ? view.as_float(file.where()) : file.weights(name, view);
    if (kept) {
      if (!same_bits(values, fixed.values.values(*info))) {
        fail(file.where(), "'", name,
             "' has other values than in model.file, where it is not trained (requires_grad = "
             "False, or a buffer that never changes); save the module with the values that it "
             "shall have");
      }
    } else if (const auto [found, fresh] = read.try_emplace(tensor, name); fresh) {
      std::ranges::copy(values, weights.values(*info).begin());
    } else if (!same_bits(values, weights.values(*info))) {
      fail(
          file.where(), "'", found->second, "' and '", name,
          "' are one tensor in the module, but have different values here; is this another model?");
    }
  }
  for (const ParameterInfo& tensor : weights.layout().tensors()) {
    if (!read.contains(tensor.name))
      fail(file.where(), "the tensor '", tensor.name, "' is missing; is this another model?");
  }
}

}  // namespace espalier::train

#include "espalier/script/script_module.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <unordered_map>

namespace espalier::script {
namespace {

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// A module says nothing about its tensors' roles; names and shapes do.
Role role_of(const std::string& name, const at::Tensor& tensor, bool buffer) {
  if (buffer) return at::isFloatingType(tensor.scalar_type()) ? Role::kStatistic : Role::kCounter;
  if (ends_with(name, "bias") || name.find("bias_") != std::string::npos) return Role::kBias;
  if (name.find("embedding") != std::string::npos) return Role::kEmbedding;
  return tensor.dim() <= 1 ? Role::kNorm : Role::kWeight;
}

}  // namespace

ScriptModule::ScriptModule(const std::string& file) : module_(::torch::jit::load(file, at::kCPU)) {
  find_tensors();
}

ScriptModule ScriptModule::copy() const {
  ScriptModule out;
  out.module_ = module_.deepcopy();
  out.find_tensors();
  return out;
}

void ScriptModule::find_tensors() {
  const auto add = [&](const std::string& name, const at::Tensor& tensor, bool buffer) {
    tensors_.push_back(
        {.name = name, .shape = tensor.sizes().vec(), .role = role_of(name, tensor, buffer)});
    const at::Tensor values = tensor.detach().to(at::kFloat).contiguous();
    initial_.insert(initial_.end(), values.data_ptr<float>(),
                    values.data_ptr<float>() + values.numel());
    types_.push_back(tensor.scalar_type());
    const size_t dot = name.rfind('.');
    ::torch::jit::Module owner = module_;
    for (size_t begin = 0; dot != std::string::npos && begin < dot;) {
      const size_t end = std::min(name.find('.', begin), dot);
      owner = owner.attr(name.substr(begin, end - begin)).toModule();
      begin = end + 1;
    }
    owners_.emplace_back(owner, dot == std::string::npos ? name : name.substr(dot + 1));
  };
  for (const auto& item : module_.named_parameters()) add(item.name, item.value, false);
  for (const auto& item : module_.named_buffers()) add(item.name, item.value, true);

  // A recurrent layer of PyTorch keeps its parameters a second time, in a list.
  std::unordered_map<const at::TensorImpl*, size_t> index;
  size_t next = 0;
  for (const auto& item : module_.named_parameters())
    index[item.value.unsafeGetTensorImpl()] = next++;
  for (const auto& submodule : module_.modules()) {
    for (const c10::IValue& attribute : submodule._ivalue()->slots()) {
      if (!attribute.isTensorList()) continue;
      const c10::List<at::Tensor> list = attribute.toTensorList();
      for (size_t i = 0; i < list.size(); ++i) {
        const auto found = index.find(list.get(i).unsafeGetTensorImpl());
        if (found != index.end()) listed_.push_back({list, i, found->second});
      }
    }
  }
}

void ScriptModule::set(const std::vector<at::Tensor>& values) {
  ESPALIER_CHECK(values.size() == owners_.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const at::Tensor value =
        values[i].scalar_type() == types_[i] ? values[i] : values[i].to(types_[i]);
    owners_[i].first.setattr(owners_[i].second, value);
  }
  for (const Listed& place : listed_) {
    const auto& [owner, name] = owners_[place.tensor];
    place.list.set(place.index, owner.attr(name).toTensor());
  }
}

ScriptModule::Output ScriptModule::run_all(const at::Tensor& input, bool training) {
  module_.train(training);
  const c10::IValue output = module_.forward({input});
  if (output.isTensor()) return {output.toTensor(), {}};
  if (output.isTuple()) {
    const auto& parts = output.toTupleRef().elements();
    if (parts.size() == 2 && parts[0].isTensor() && parts[1].isTensor())
      return {parts[1].toTensor(), parts[0].toTensor()};
  }
  throw std::runtime_error("its forward returns neither logits nor (features, logits), but " +
                           output.tagKind());
}

std::vector<at::Tensor> copy_tensors(const ParameterLayout& layout, std::span<const float> values) {
  std::vector<at::Tensor> tensors;
  for (const ParameterInfo& info : layout.tensors()) {
    float* begin = const_cast<float*>(values.data()) + info.offset;
    tensors.push_back(at::from_blob(begin, info.shape, at::kFloat).clone());
  }
  return tensors;
}

void check_script_file(const ModelOptions& options) {
  if (options.file.empty())
    fail("train/model", "model 'torchscript' needs model.file, the path of a scripted module");
  if (!std::filesystem::exists(options.file))
    fail("train/model", "model.file: no such file (", options.file, ")");
}

}  // namespace espalier::script

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <set>

#include "espalier/script/script_labels.h"
#include "espalier/script/script_module.h"

namespace espalier::script {

std::vector<size_t> find_script_extractor(ScriptModule& module, const DataSpec& data) {
  const ParameterLayout layout(module.tensors());
  const at::Tensor input = random_samples(data, Key(0x637574));  // any; the answer is the same
  const auto fresh = [&] { return copy_tensors(layout, module.initial()); };
  const auto& infos = layout.tensors();
  std::vector<bool> inside(infos.size(), false);

  std::vector<at::Tensor> tensors = fresh();
  ::torch::autograd::variable_list leaves;
  std::vector<size_t> leaf_of;
  for (size_t i = 0; i < infos.size(); ++i) {
    if (!is_trainable(infos[i].role)) continue;
    leaves.push_back(tensors[i].requires_grad_(true));
    leaf_of.push_back(i);
  }
  module.set(tensors);
  const at::Tensor total = module.run_all(input, false).features.sum();
  if (total.requires_grad()) {
    const auto found = ::torch::autograd::grad({total}, leaves, {}, false, false, true);
    for (size_t i = 0; i < found.size(); ++i) inside[leaf_of[i]] = found[i].defined();
  }

  const c10::NoGradGuard no_grad;
  const auto features = [&](const std::vector<at::Tensor>& values) {
    module.set(values);
    return module.run_all(input, false).features.clone();
  };
  const at::Tensor before = features(fresh());
  for (size_t i = 0; i < infos.size(); ++i) {
    if (infos[i].role != Role::kStatistic) continue;
    for (const double change : {0.5, 2.0}) {  // a ReLU may hide one of them
      tensors = fresh();
      tensors[i] = tensors[i].mul(change).add(change - 1);
      inside[i] = inside[i] || !at::equal(features(tensors), before);
    }
  }

  std::set<std::string> layers;
  for (size_t i = 0; i < infos.size(); ++i) {
    if (inside[i]) layers.insert(layer_name(infos[i].name));
  }
  std::vector<size_t> out;
  for (size_t i = 0; i < infos.size(); ++i) {
    const bool beside =
        infos[i].role == Role::kCounter && layers.contains(layer_name(infos[i].name));
    if (inside[i] || beside) out.push_back(i);
  }
  return out;
}

}  // namespace espalier::script

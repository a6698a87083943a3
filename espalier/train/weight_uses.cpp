#include "espalier/train/weight_uses.h"

#include "espalier/base/error.h"
#include "espalier/train/models.h"

namespace espalier::train {

std::vector<int64_t> weight_uses(const ModelOptions& model, const DataSpec& data) {
  if (const auto graph = build_graph(model, data)) {
    std::vector<int64_t> uses(graph->layout->tensors().size(), 0);
    for (const Node& node : graph->nodes) {
      if (node.op == Op::kConv) uses[static_cast<size_t>(node.weight)] = node.out.pixels();
      if (node.op == Op::kLinear) uses[static_cast<size_t>(node.weight)] = 1;
    }
    return uses;
  }
  const auto layout = model_layout(model, data);
  std::vector<int64_t> uses;
  for (const ParameterInfo& tensor : layout->tensors()) {
    if (model.name != "lstm")
      fail("train/model", "the layers of model '", model.name,
           "' are not known; use a model of `espalier list models`");
    const bool recurrent = tensor.name.find("weight_ih") != std::string::npos ||
                           tensor.name.find("weight_hh") != std::string::npos;
    const bool linear = tensor.role == Role::kWeight && !recurrent;
    uses.push_back(recurrent ? data.sample_shape.front() : linear ? 1 : 0);
  }
  return uses;
}

}  // namespace espalier::train

#include "espalier/models/weight_uses.h"

#include "espalier/base/error.h"
#include "espalier/models/models.h"

namespace espalier::models {

std::vector<int64_t> weight_uses(const ModelOptions& model, const DataSpec& data) {
  if (const auto graph = build_graph(model, data)) {
    std::vector<int64_t> uses(graph->layout->tensors().size(), 0);
    for (const Node& node : graph->nodes) {
      if (node.op == Op::kConv) uses[static_cast<size_t>(node.weight)] = node.out.pixels();
      if (node.op == Op::kLinear) uses[static_cast<size_t>(node.weight)] = 1;
      if (node.op == Op::kLstm) {
        uses[static_cast<size_t>(node.weight)] = node.in.width;
        uses[static_cast<size_t>(node.recurrent)] = node.in.width;
      }
    }
    return uses;
  }
  model_layout(model, data);  // says what is wrong with the model, if anything is
  fail("train/model", "the layers of model '", model.name,
       "' are not known; use a model of `espalier list models`");
}

}  // namespace espalier::models

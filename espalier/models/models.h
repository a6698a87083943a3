#pragma once

#include <memory>
#include <string>
#include <vector>

#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/nn/graph.h"

// The models that are graphs, by name. A new one is one row of the table in models.cpp.
namespace espalier::models {

// Models are built from the engine's graphs.
using namespace nn;

struct GraphModel {
  ModelRow row;
  Graph (*build)(const ModelOptions& options, const DataSpec& data);
  bool gates = false;  // whether `options.gates` may ask for some
};
const std::vector<GraphModel>& graph_models();

// Throws Error for gates that the model cannot have or options of gates that would do nothing.
void check_gates(const ModelOptions& options, bool supported);

// The model's graph, or nullptr when no such model has this name.
std::unique_ptr<Graph> build_graph(const ModelOptions& options, const DataSpec& data);

}  // namespace espalier::models

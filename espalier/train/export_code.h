#pragma once

#include <string>

#include "espalier/params/layout.h"
#include "espalier/train/graph.h"

// Models as TorchScript source: the method `forward` of a ModuleTree.
namespace espalier::train {

// Throws Error for a node that TorchScript code cannot express.
std::string graph_code(const Graph& graph);

// The net of lstm_model.cpp, whose layout this is.
std::string lstm_code(const ParameterLayout& layout);

}  // namespace espalier::train

#pragma once

#include <string>

#include "espalier/nn/graph.h"
#include "espalier/params/layout.h"

// Models as TorchScript source: the method `forward` of a ModuleTree.
namespace espalier::script {

using namespace nn;

// Throws Error for a node that TorchScript code cannot express.
std::string graph_code(const Graph& graph);

}  // namespace espalier::script

#pragma once

#include <memory>
#include <string>

#include "espalier/models/make_trainer.h"
#include "espalier/nn/graph.h"
#include "espalier/nn/net.h"

// Nets that libtorch runs under autograd. Free of libtorch's headers. libtorch's exceptions become
// Errors here.
namespace espalier::torch {

// Nets of the engine's interface for the table of models.
using namespace nn;
using namespace models;

// The same function as GraphNet, on any device libtorch knows: the engine's reference, and how a
// Graph runs on "cuda".
std::unique_ptr<Net> make_torch_graph_net(Graph graph, const std::string& device);
// On the CPU, but weights and gradients travel as they do to another device: for tests.
std::unique_ptr<Net> make_packed_torch_graph_net(Graph graph);

// Throws Error when this libtorch cannot use `device`.
void check_device(const std::string& device);

}  // namespace espalier::torch

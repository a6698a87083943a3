#pragma once

#include <memory>
#include <string>

#include "espalier/train/graph.h"
#include "espalier/train/net.h"
#include "espalier/train/trainer.h"

// Nets that libtorch runs under autograd. Free of libtorch's headers. libtorch's exceptions become
// Errors here.
namespace espalier::train {

// The same function as GraphNet, on any device libtorch knows: the engine's reference, and how a
// Graph runs on "cuda".
std::unique_ptr<Net> make_torch_graph_net(Graph graph, const std::string& device);

// Embedding, LSTM, last step to a linear layer; and a user's TorchScript module
// (ModelOptions::file). `units` as in make_trainer. Throw Error when the model does not fit the
// data.
std::unique_ptr<Net> make_lstm_net(const ModelOptions& options, const DataSpec& data,
                                   const std::string& device, std::span<const int64_t> units = {});
std::unique_ptr<Net> make_script_net(const ModelOptions& options, const DataSpec& data,
                                     const std::string& device,
                                     std::span<const int64_t> units = {});

// Throws Error when this libtorch cannot use `device`.
void check_device(const std::string& device);

}  // namespace espalier::train

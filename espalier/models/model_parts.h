#pragma once

#include <cstdint>

#include "espalier/models/make_trainer.h"
#include "espalier/nn/graph.h"

// For the files that build models.
namespace espalier::models {

using namespace nn;

// Samples as images: {channels, height, width}; a float vector of n features is n channels of one
// pixel. Throws Error for token sequences.
Shape image_shape(const ModelOptions& options, const DataSpec& data);
// Throws Error unless the samples have channels, height and width.
Shape require_image(const ModelOptions& options, const DataSpec& data);
// A number of channels or units under ModelOptions::width.
int64_t scaled(const ModelOptions& options, int64_t channels);

// Has the builder make the gates that the options ask for.
void apply_gates(const ModelOptions& options, GraphBuilder& net);

// gkt_models.cpp. `blocks`: bottlenecks per stage.
Graph gkt_client(const ModelOptions& options, const DataSpec& data);
Graph gkt_server(const ModelOptions& options, const DataSpec& data, int blocks);
Graph gkt_whole(const ModelOptions& options, const DataSpec& data, int blocks);
Graph small_client(const ModelOptions& options, const DataSpec& data);
Graph small_server(const ModelOptions& options, const DataSpec& data);
Graph small_whole(const ModelOptions& options, const DataSpec& data);

// lstm_model.cpp. Throws Error unless the samples are token sequences.
Graph lstm(const ModelOptions& options, const DataSpec& data);

}  // namespace espalier::models

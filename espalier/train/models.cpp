#include "espalier/train/models.h"

#include <cmath>

namespace espalier::train {
namespace {

// Samples as images: {channels, height, width}; a float vector of n features is n channels of one
// pixel.
Shape image_shape(const ModelOptions& options, const DataSpec& data) {
  const auto& shape = data.sample_shape;
  if (data.kind == data::Kind::kTokens) {
    fail("train/model", "model '", options.name,
         "' expects images or vectors, got token sequences; use model.name = \"lstm\"");
  }
  if (shape.size() == 3) return {shape[0], shape[1], shape[2]};
  int64_t size = 1;
  for (const int64_t extent : shape) size *= extent;
  return {size, 1, 1};
}

Shape require_image(const ModelOptions& options, const DataSpec& data) {
  if (data.sample_shape.size() != 3) {
    fail("train/model", "model '", options.name,
         "' expects samples of shape [channels, height, width], got ",
         shape_text(data.sample_shape), "; use model.name = \"mlp\"");
  }
  return image_shape(options, data);
}

int64_t scaled(const ModelOptions& options, int64_t channels) {
  return std::max<int64_t>(1, std::llround(static_cast<double>(channels) * options.width));
}

Graph mlp(const ModelOptions& options, const DataSpec& data) {
  GraphBuilder net(options.name, image_shape(options, data));
  int x = net.flatten(kGraphInput);
  for (size_t i = 0; i < options.hidden.size(); ++i) {
    x = net.linear(concat("fc", i + 1), x, options.hidden[i], true);
  }
  net.linear(concat("fc", options.hidden.size() + 1), x, data.num_classes, false);
  return std::move(net).finish();
}

// The MNIST net of McMahan et al. 2017 (FedAvg): 1,663,370 parameters on 1×28×28 with 10 classes.
Graph cnn(const ModelOptions& options, const DataSpec& data) {
  GraphBuilder net(options.name, require_image(options, data));
  int x = net.conv("conv1", kGraphInput,
                   {.channels = scaled(options, 32), .kernel = 5, .padding = 2, .relu = true});
  x = net.max_pool(x, 2, 2);
  x = net.conv("conv2", x,
               {.channels = scaled(options, 64), .kernel = 5, .padding = 2, .relu = true});
  x = net.flatten(net.max_pool(x, 2, 2));
  x = net.linear("fc1", x, scaled(options, 512), true);
  net.linear("fc2", x, data.num_classes, false);
  return std::move(net).finish();
}

}  // namespace

const std::vector<GraphModel>& graph_models() {
  static const std::vector<GraphModel> models = {
      {{"mlp", "Fully connected, ReLU; `hidden` gives the widths (784-64-10: 50,890 parameters)."},
       mlp},
      {{"cnn", "conv5x5-32, pool, conv5x5-64, pool, fc 512 (1,663,370 parameters on MNIST)."}, cnn},
  };
  return models;
}

std::unique_ptr<Graph> build_graph(const ModelOptions& options, const DataSpec& data) {
  for (const GraphModel& model : graph_models()) {
    if (model.row.name == options.name) return std::make_unique<Graph>(model.build(options, data));
  }
  return nullptr;
}

}  // namespace espalier::train

#include "espalier/models/models.h"

#include <cmath>

#include "espalier/models/model_parts.h"

namespace espalier::models {
Shape image_shape(const ModelOptions& options, const DataSpec& data) {
  const auto& shape = data.sample_shape;
  if (data.kind == data::Kind::kTokens) {
    fail("train/model", "model '", options.name, "' cannot read sequences of ", shape_text(shape),
         " tokens (\"lstm\" can); store pixels as uint8 (samples, channels, height, width), values "
         "as "
         "float32");
  }
  if (shape.size() == 3) return {shape[0], shape[1], shape[2]};
  int64_t size = 1;
  for (const int64_t extent : shape) size *= extent;
  return {size, 1, 1};
}

Shape require_image(const ModelOptions& options, const DataSpec& data) {
  if (data.kind != data::Kind::kTokens && data.sample_shape.size() != 3) {
    fail("train/model", "model '", options.name,
         "' expects samples of shape [channels, height, width], got ",
         shape_text(data.sample_shape), "; use model.name = \"mlp\"",
         data.sample_shape.size() == 2 ? ", or store gray images as inputs[:, None]" : "");
  }
  return image_shape(options, data);
}

int64_t scaled(const ModelOptions& options, int64_t channels) {
  return std::max<int64_t>(1, std::llround(static_cast<double>(channels) * options.width));
}

void apply_gates(const ModelOptions& options, GraphBuilder& net) {
  if (options.gates == "none") return;
  net.set_gates({.fbs = options.gates == "fbs",
                 .ratio = options.gate_ratio,
                 .sigmoid = options.gate_sigmoid,
                 .l1 = options.gate_l1,
                 .open = options.gate_init == "open"});
}

void check_gates(const ModelOptions& options, bool supported) {
  const ModelOptions plain;
  if (options.gates == "none") {
    if (options.gate_ratio != plain.gate_ratio || options.gate_sigmoid || options.gate_l1 != 0 ||
        options.gate_init != plain.gate_init) {
      fail("train/gates",
           "gate_ratio, gate_sigmoid, gate_l1 and gate_init do nothing without gates; set "
           "model.gates to \"gated\" or \"fbs\"");
    }
    return;
  }
  if (!supported) {
    fail("train/gates", "model '", options.name, "' has no gates; set model.gates = \"none\"");
  }
  if (options.gate_l1 != 0 && options.gates != "fbs") {
    fail("train/gates", "gate_l1 belongs to the gates of mode \"fbs\"; set model.gates = \"fbs\"");
  }
}

namespace {

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
  apply_gates(options, net);
  int x = net.gated_conv("conv1", kGraphInput,
                         {.channels = scaled(options, 32), .kernel = 5, .padding = 2}, 2);
  x = net.gated_conv("conv2", x, {.channels = scaled(options, 64), .kernel = 5, .padding = 2}, 2);
  x = net.flatten(x);
  x = net.linear("fc1", x, options.fc_units > 0 ? options.fc_units : scaled(options, 512), true);
  net.linear("fc2", x, data.num_classes, false);
  return std::move(net).finish();
}

// A common CIFAR-10 baseline of federated learning: 1,626,442 parameters on 3×32×32 with 10
// classes.
Graph cnn_cifar(const ModelOptions& options, const DataSpec& data) {
  GraphBuilder net(options.name, require_image(options, data));
  apply_gates(options, net);
  int x = net.gated_conv("conv1", kGraphInput, {.channels = scaled(options, 32), .kernel = 3}, 0);
  x = net.gated_conv("conv2", x, {.channels = scaled(options, 64), .kernel = 3}, 2);
  x = net.flatten(x);
  x = net.linear("fc1", x, scaled(options, 128), true);
  net.linear("fc2", x, data.num_classes, false);
  return std::move(net).finish();
}

// All-CNN-C of Springenberg et al. 2015 without dropout and without a ReLU on the logits. It starts
// as He et al. 2015 propose: from PyTorch's default it does not leave chance level for many rounds.
Graph all_cnn(const ModelOptions& options, const DataSpec& data) {
  GraphBuilder net(options.name, require_image(options, data));
  struct Row {
    int64_t channels, kernel, stride;
  };
  constexpr Row kRows[] = {{96, 3, 1},  {96, 3, 1},  {96, 3, 2},  {192, 3, 1},
                           {192, 3, 1}, {192, 3, 2}, {192, 3, 1}, {192, 1, 1}};
  apply_gates(options, net);
  int x = kGraphInput, number = 1;
  for (const Row& row : kRows) {
    x = net.gated_conv(concat("conv", number++), x,
                       {.channels = scaled(options, row.channels),
                        .kernel = row.kernel,
                        .stride = row.stride,
                        .padding = row.kernel / 2,
                        .he = true},
                       0);
  }
  x = net.conv(concat("conv", number), x, {.channels = data.num_classes, .kernel = 1, .he = true});
  net.global_average(x);
  return std::move(net).finish();
}

// He et al. 2016, section 4.2: three stages of basic blocks with 16, 32 and 64 channels. The
// shortcut of a stage's first block is a 1×1 convolution with a normalization (the paper's option
// B; its CIFAR nets use zero-padding, option A), as torchvision has it, whose names are used.
template <int kDepth>
Graph resnet(const ModelOptions& options, const DataSpec& data) {
  static_assert(kDepth % 6 == 2);
  GraphBuilder net(options.name, require_image(options, data));
  const bool group = options.norm == "group";
  apply_gates(options, net);
  int64_t channels = scaled(options, 16);
  int x = net.conv("conv1", kGraphInput,
                   {.channels = channels, .kernel = 3, .padding = 1, .bias = false});
  x = net.norm("bn1", x, {.group = group});
  for (int stage = 1; stage <= 3; ++stage) {
    const int64_t width = scaled(options, int64_t{8} << stage);
    for (int block = 0; block < (kDepth - 2) / 6; ++block) {
      const std::string name = concat("layer", stage, ".", block);
      const int64_t stride = stage > 1 && block == 0 ? 2 : 1;
      int gate = net.gate(name + ".conv1", x, width);
      int y =
          net.conv(name + ".conv1", x,
                   {.channels = width, .kernel = 3, .stride = stride, .padding = 1, .bias = false});
      y = net.norm(name + ".bn1", y, {.group = group, .gate = gate});
      gate = net.gate(name + ".conv2", y, width);
      y = net.conv(name + ".conv2", y,
                   {.channels = width, .kernel = 3, .padding = 1, .bias = false});
      int shortcut = x;
      if (stride != 1 || width != channels) {
        shortcut = net.conv(name + ".downsample.0", x,
                            {.channels = width, .kernel = 1, .stride = stride, .bias = false});
        shortcut = net.norm(name + ".downsample.1", shortcut, {.group = group, .relu = false});
      }
      x = net.norm(name + ".bn2", y, {.group = group, .residual = shortcut, .gate = gate});
      channels = width;
    }
  }
  net.linear("fc", net.global_average(x), data.num_classes, false);
  return std::move(net).finish();
}

// Configuration A of Simonyan and Zisserman 2015 with batch normalization and, as usual on CIFAR,
// one fully connected layer: 9,231,114 parameters on 3×32×32 with 10 classes.
Graph vgg11(const ModelOptions& options, const DataSpec& data) {
  GraphBuilder net(options.name, require_image(options, data));
  apply_gates(options, net);
  int x = kGraphInput, position = 0;
  for (const int64_t channels : {64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0}) {
    if (channels == 0) {
      x = net.max_pool(x, 2);
      ++position;
      continue;
    }
    const std::string name = concat("features.", position);
    const int gate = net.gate(name, x, scaled(options, channels));
    x = net.conv(name, x, {.channels = scaled(options, channels), .kernel = 3, .padding = 1});
    x = net.norm(concat("features.", position + 1), x, {.gate = gate});
    position += 3;  // convolution, normalization, ReLU
  }
  net.linear("classifier", net.flatten(x), data.num_classes, false);
  return std::move(net).finish();
}

template <int kBlocks>
Graph server(const ModelOptions& options, const DataSpec& data) {
  return gkt_server(options, data, kBlocks);
}

template <int kBlocks>
Graph whole(const ModelOptions& options, const DataSpec& data) {
  return gkt_whole(options, data, kBlocks);
}

}  // namespace

const std::vector<GraphModel>& graph_models() {
  static const std::vector<GraphModel> models = {
      {{"mlp",
        "Fully connected, ReLU; `hidden` gives the widths (784-64-10: 50,890 parameters).",
        {"hidden"}},
       mlp},
      {{"cnn",
        "conv5x5-32, pool, conv5x5-64, pool, fc 512 (1,663,370 parameters on MNIST).",
        {"width", "fc_units"}},
       cnn,
       true},
      {{"cnn-cifar",
        "conv3x3-32, conv3x3-64, pool, fc 128 (1,626,442 parameters on CIFAR-10).",
        {"width"}},
       cnn_cifar,
       true},
      {{"all-cnn",
        "All-CNN-C: nine convolutions, no pooling (1,369,738 parameters on CIFAR-10).",
        {"width"}},
       all_cnn,
       true},
      {{"resnet8",
        "CIFAR ResNet of 8 layers; `norm` chooses batch or group normalization.",
        {"width", "norm"}},
       resnet<8>,
       true},
      {{"resnet20", "CIFAR ResNet of 20 layers (272,474 parameters).", {"width", "norm"}},
       resnet<20>,
       true},
      {{"resnet32", "CIFAR ResNet of 32 layers (466,906 parameters).", {"width", "norm"}},
       resnet<32>,
       true},
      {{"resnet56", "CIFAR ResNet of 56 layers (855,770 parameters).", {"width", "norm"}},
       resnet<56>,
       true},
      {{"resnet110", "CIFAR ResNet of 110 layers (1,730,714 parameters).", {"width", "norm"}},
       resnet<110>,
       true},
      {{"vgg11",
        "VGG-11 with batch normalization and one fully connected layer (9,231,114 parameters).",
        {"width"}},
       vgg11,
       true},
      {{"resnet8-client",
        "FedGKT's client: 16 feature maps, then two bottlenecks (10,586 parameters).",
        {"width", "norm"}},
       gkt_client},
      {{"resnet55-server",
        "FedGKT's server on the client's feature maps: 18 bottlenecks (590,858).",
        {"width", "norm"}},
       server<6>},
      {{"resnet109-server",
        "FedGKT's large server: 36 bottlenecks (1,147,274 parameters).",
        {"width", "norm"}},
       server<12>},
      {{"resnet56-gkt",
        "resnet55-server with the client's first layer, in one piece (591,322).",
        {"width", "norm"}},
       whole<6>},
      {{"resnet110-gkt",
        "resnet109-server with the client's first layer, in one piece (1,147,738).",
        {"width", "norm"}},
       whole<12>},
      {{"small-client",
        "Client for small images: 16 feature maps of half the size, one convolution.",
        {"width", "norm"}},
       small_client},
      {{"small-server",
        "Server of small-client: four residual blocks of 32 and 64 channels.",
        {"width", "norm"}},
       small_server},
      {{"small-gkt",
        "small-client's first layer and small-server in one piece.",
        {"width", "norm"}},
       small_whole},
      {{"lstm",
        "Embedding, stacked LSTM, last step to a linear layer; for token sequences.",
        {"embedding", "lstm_units", "lstm_layers"}},
       lstm},
  };
  return models;
}

std::unique_ptr<Graph> build_graph(const ModelOptions& options, const DataSpec& data) {
  for (const GraphModel& model : graph_models()) {
    if (model.row.name != options.name) continue;
    check_gates(options, model.gates);
    return std::make_unique<Graph>(model.build(options, data));
  }
  return nullptr;
}

}  // namespace espalier::models

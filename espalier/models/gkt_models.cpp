#include "espalier/models/model_parts.h"

// Nets that are cut in two: what FedGKT (He, Annavaram, Avestimehr 2020) trains on clients and on
// the server, and the large net in one piece. The client's feature map is the output of its first
// convolution, normalization and ReLU; servers take the feature map as their samples.
//
// Bottlenecks are those of He et al. 2016 with the stride in the 3×3 convolution and a projection
// (1×1, normalization) wherever stride or width changes. Parameters are named as in torchvision,
// and the client's extractor as the first layers of the net in one piece, so that a file of the
// latter can start it.
namespace espalier::models {
namespace {

constexpr int64_t kExpansion = 4;

class Builder {
 public:
  Builder(const ModelOptions& options, const DataSpec& data)
      : options_(options), net_(options.name, require_image(options, data)) {}

  // Convolution, normalization, ReLU.
  void stem(int64_t channels, int64_t stride) {
    x_ = conv_norm("conv1", "bn1", x_,
                   {.channels = channels, .kernel = 3, .stride = stride, .padding = 1}, {});
  }
  void mark_features() { net_.mark_features(); }

  void bottleneck(const std::string& name, int64_t planes, int64_t stride) {
    int y = conv_norm(name + ".conv1", name + ".bn1", x_, {.channels = planes, .kernel = 1}, {});
    y = conv_norm(name + ".conv2", name + ".bn2", y,
                  {.channels = planes, .kernel = 3, .stride = stride, .padding = 1}, {});
    add(name, y, "conv3", "bn3", {.channels = kExpansion * planes, .kernel = 1}, stride);
  }
  // Two 3×3 convolutions.
  void basic(const std::string& name, int64_t channels, int64_t stride) {
    const int y =
        conv_norm(name + ".conv1", name + ".bn1", x_,
                  {.channels = channels, .kernel = 3, .stride = stride, .padding = 1}, {});
    add(name, y, "conv2", "bn2", {.channels = channels, .kernel = 3, .padding = 1}, stride);
  }
  void plain(const std::string& name, int64_t channels, int64_t stride) {
    x_ = conv_norm(name + ".conv1", name + ".bn1", x_,
                   {.channels = channels, .kernel = 3, .stride = stride, .padding = 1}, {});
  }

  Graph finish(int64_t classes) && {
    net_.linear("fc", net_.global_average(x_), classes, false);
    return std::move(net_).finish();
  }

 private:
  int conv_norm(const std::string& conv, const std::string& norm, int from, GraphBuilder::Conv what,
                GraphBuilder::Norm how) {
    what.bias = false;
    how.group = options_.norm == "group";
    return net_.norm(norm, net_.conv(conv, from, what), how);
  }
  // The block's last convolution and the sum with its input.
  void add(const std::string& name, int y, const std::string& conv, const std::string& norm,
           const GraphBuilder::Conv& what, int64_t stride) {
    int shortcut = x_;
    y = net_.conv(name + "." + conv, y, without_bias(what));
    if (stride != 1 || what.channels != net_.shape(x_).channels) {
      shortcut =
          conv_norm(name + ".downsample.0", name + ".downsample.1", x_,
                    {.channels = what.channels, .kernel = 1, .stride = stride}, {.relu = false});
    }
    x_ = net_.norm(name + "." + norm, y, {.group = options_.norm == "group", .residual = shortcut});
  }
  static GraphBuilder::Conv without_bias(GraphBuilder::Conv conv) {
    conv.bias = false;
    return conv;
  }

  const ModelOptions& options_;
  GraphBuilder net_;
  int x_ = kGraphInput;
};

// Three stages of `blocks` bottlenecks with 16, 32 and 64 planes.
void stages(Builder& net, const ModelOptions& options, int blocks) {
  for (int stage = 1; stage <= 3; ++stage) {
    for (int block = 0; block < blocks; ++block) {
      net.bottleneck(concat("layer", stage, ".", block), scaled(options, int64_t{8} << stage),
                     stage > 1 && block == 0 ? 2 : 1);
    }
  }
}

}  // namespace

Graph gkt_client(const ModelOptions& options, const DataSpec& data) {
  Builder net(options, data);
  net.stem(scaled(options, 16), 1);
  net.mark_features();
  for (int block = 0; block < 2; ++block)
    net.bottleneck(concat("layer1.", block), scaled(options, 16), 1);
  return std::move(net).finish(data.num_classes);
}

Graph gkt_server(const ModelOptions& options, const DataSpec& data, int blocks) {
  Builder net(options, data);
  stages(net, options, blocks);
  return std::move(net).finish(data.num_classes);
}

Graph gkt_whole(const ModelOptions& options, const DataSpec& data, int blocks) {
  Builder net(options, data);
  net.stem(scaled(options, 16), 1);
  stages(net, options, blocks);
  return std::move(net).finish(data.num_classes);
}

// The first convolution halves the image: on 28×28 a feature map is 16×14×14, 12.5 KB per sample
// instead of 50 KB, and strokes of handwriting and outlines of clothes survive it.
Graph small_client(const ModelOptions& options, const DataSpec& data) {
  Builder net(options, data);
  net.stem(scaled(options, 16), 2);
  net.mark_features();
  net.plain("layer1.0", scaled(options, 32), 2);
  return std::move(net).finish(data.num_classes);
}

namespace {

void small_stages(Builder& net, const ModelOptions& options) {
  for (int stage = 1; stage <= 2; ++stage) {
    for (int block = 0; block < 2; ++block) {
      net.basic(concat("layer", stage, ".", block), scaled(options, int64_t{16} << stage),
                stage > 1 && block == 0 ? 2 : 1);
    }
  }
}

}  // namespace

Graph small_server(const ModelOptions& options, const DataSpec& data) {
  Builder net(options, data);
  small_stages(net, options);
  return std::move(net).finish(data.num_classes);
}

Graph small_whole(const ModelOptions& options, const DataSpec& data) {
  Builder net(options, data);
  net.stem(scaled(options, 16), 2);
  small_stages(net, options);
  return std::move(net).finish(data.num_classes);
}

}  // namespace espalier::models

#include <cmath>

#include "espalier/train/torch_model.h"
#include "espalier/train/torch_net.h"

namespace espalier::train {
namespace {

// Embedding, stacked LSTM, and a linear layer on the last step's output: the next-character net of
// McMahan et al. 2017. Parameters have the names and start of PyTorch's Embedding, LSTM and Linear.
class LstmModel final : public TorchModel {
 public:
  LstmModel(const ModelOptions& options, const DataSpec& data, std::span<const int64_t> units)
      : length_(data.sample_shape.at(0)), layers_(options.lstm_layers) {
    std::vector<ParameterInfo> tensors;
    const auto add = [&](std::string name, std::vector<int64_t> shape, Role role,
                         std::vector<AxisUnits> axes) {
      tensors.push_back({.name = std::move(name),
                         .shape = std::move(shape),
                         .role = role,
                         .units = std::move(axes)});
    };
    // Group 0: the embedding's features; group l + 1: the units of layer l, in all four gates.
    std::vector<UnitGroup> groups = {{"embedding", options.embedding}};
    add("embedding.weight", {data.vocabulary, options.embedding}, Role::kEmbedding,
        {{.axis = 1, .group = 0}});
    const int64_t width = options.lstm_units;
    for (int layer = 0; layer < static_cast<int>(layers_); ++layer) {
      const int64_t in = layer == 0 ? options.embedding : width;
      const std::string end = concat("_l", layer);
      const AxisUnits gates{.axis = 0, .group = layer + 1, .blocks = 4};
      groups.push_back({"lstm" + end, width});
      add("lstm.weight_ih" + end, {4 * width, in}, Role::kWeight,
          {gates, {.axis = 1, .group = layer}});
      add("lstm.weight_hh" + end, {4 * width, width}, Role::kWeight,
          {gates, {.axis = 1, .group = layer + 1}});
      add("lstm.bias_ih" + end, {4 * width}, Role::kBias, {gates});
      add("lstm.bias_hh" + end, {4 * width}, Role::kBias, {gates});
    }
    add("fc.weight", {data.num_classes, width}, Role::kWeight,
        {{.axis = 1, .group = static_cast<int>(layers_)}});
    add("fc.bias", {data.num_classes}, Role::kBias, {});
    layout_ = std::make_shared<const ParameterLayout>(std::move(tensors), std::move(groups));
    if (!units.empty()) layout_ = narrow_layout(*layout_, units);

    init_.push_back({Init::kNormal, 1});
    for (int64_t layer = 0; layer < layers_; ++layer) {
      const int64_t in = size_of(layer), out = size_of(layer + 1);
      macs_ += static_cast<uint64_t>(length_ * 4 * out * (in + out));
      init_.insert(init_.end(), 4, uniform_init(out));
    }
    macs_ += static_cast<uint64_t>(data.num_classes * size_of(layers_));
    init_.insert(init_.end(), 2, uniform_init(size_of(layers_)));
  }

  const std::shared_ptr<const ParameterLayout>& layout() const override { return layout_; }
  uint64_t macs_per_sample() const override { return macs_; }
  void initialize(Key key, ParameterSet& out) const override { draw_parameters(init_, key, out); }
  std::vector<int64_t> sample_shape() const override { return {length_}; }

  int64_t num_logits() const override { return layout_->tensors().back().shape.at(0); }
  Output forward(const std::vector<at::Tensor>& tensors, const at::Tensor& input,
                 bool training) override {
    const at::Tensor x = at::embedding(tensors[0], input);
    // Layer by layer, because sub-models may have layers of different widths.
    at::Tensor sequence = x;
    for (size_t layer = 0; layer < static_cast<size_t>(layers_); ++layer) {
      const at::Tensor zero =
          at::zeros({1, input.size(0), size_of(static_cast<int64_t>(layer) + 1)}, x.options());
      const auto first = tensors.begin() + 1 + static_cast<std::ptrdiff_t>(4 * layer);
      sequence =
          std::get<0>(at::lstm(sequence, {zero, zero}, std::vector<at::Tensor>(first, first + 4),
                               /*has_biases=*/true, /*num_layers=*/1, /*dropout=*/0, training,
                               /*bidirectional=*/false, /*batch_first=*/true));
    }
    const at::Tensor last = sequence.select(1, length_ - 1);
    return {at::linear(last, tensors[tensors.size() - 2], tensors.back()), {}};
  }

 private:
  int64_t size_of(int64_t group) const {
    return layout_->groups()[static_cast<size_t>(group)].size;
  }

  int64_t length_, layers_;
  uint64_t macs_ = 0;
  std::shared_ptr<const ParameterLayout> layout_;
  std::vector<Init> init_;
};

}  // namespace

std::unique_ptr<Net> make_lstm_net(const ModelOptions& options, const DataSpec& data,
                                   const std::string& device, std::span<const int64_t> units) {
  if (data.kind != data::Kind::kTokens || data.sample_shape.size() != 1 ||
      data.sample_shape[0] < 1 || data.vocabulary < 1) {
    fail("train/model", "model 'lstm' expects sequences of tokens, got samples of shape ",
         shape_text(data.sample_shape), "; use model.name = \"mlp\" or \"cnn\"");
  }
  return make_torch_net(std::make_unique<LstmModel>(options, data, units), device);
}

}  // namespace espalier::train

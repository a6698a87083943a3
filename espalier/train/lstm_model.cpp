#include <cmath>

#include "espalier/train/torch_model.h"
#include "espalier/train/torch_net.h"

namespace espalier::train {
namespace {

// Embedding, stacked LSTM, and a linear layer on the last step's output: the next-character net of
// McMahan et al. 2017. Parameters have the names and start of PyTorch's Embedding, LSTM and Linear.
class LstmModel final : public TorchModel {
 public:
  LstmModel(const ModelOptions& options, const DataSpec& data)
      : length_(data.sample_shape.at(0)), units_(options.lstm_units), layers_(options.lstm_layers) {
    const double bound = 1 / std::sqrt(static_cast<double>(units_));
    std::vector<ParameterInfo> tensors;
    const auto add = [&](std::string name, std::vector<int64_t> shape, Role role, Init init) {
      tensors.push_back({.name = std::move(name), .shape = std::move(shape), .role = role});
      init_.push_back(init);
    };
    add("embedding.weight", {data.vocabulary, options.embedding}, Role::kEmbedding,
        {Init::kNormal, 1});
    uint64_t macs = 0;
    for (int64_t layer = 0; layer < layers_; ++layer) {
      const int64_t in = layer == 0 ? options.embedding : units_;
      const std::string end = concat("_l", layer);
      add("lstm.weight_ih" + end, {4 * units_, in}, Role::kWeight, {Init::kUniform, bound});
      add("lstm.weight_hh" + end, {4 * units_, units_}, Role::kWeight, {Init::kUniform, bound});
      add("lstm.bias_ih" + end, {4 * units_}, Role::kBias, {Init::kUniform, bound});
      add("lstm.bias_hh" + end, {4 * units_}, Role::kBias, {Init::kUniform, bound});
      macs += static_cast<uint64_t>(length_ * 4 * units_ * (in + units_));
    }
    add("fc.weight", {data.num_classes, units_}, Role::kWeight, {Init::kUniform, bound});
    add("fc.bias", {data.num_classes}, Role::kBias, {Init::kUniform, bound});
    macs_ = macs + static_cast<uint64_t>(data.num_classes * units_);
    layout_ = std::make_shared<const ParameterLayout>(std::move(tensors));
  }

  const std::shared_ptr<const ParameterLayout>& layout() const override { return layout_; }
  uint64_t macs_per_sample() const override { return macs_; }
  void initialize(Key key, ParameterSet& out) const override { draw_parameters(init_, key, out); }
  std::vector<int64_t> sample_shape() const override { return {length_}; }

  at::Tensor forward(const std::vector<at::Tensor>& tensors, const at::Tensor& input,
                     bool training) override {
    const at::Tensor x = at::embedding(tensors[0], input);
    const at::Tensor zero = at::zeros({layers_, input.size(0), units_}, x.options());
    const std::vector<at::Tensor> parameters(tensors.begin() + 1, tensors.end() - 2);
    const auto [output, hidden, cell] =
        at::lstm(x, {zero, zero}, parameters, /*has_biases=*/true, layers_, /*dropout=*/0, training,
                 /*bidirectional=*/false,
                 /*batch_first=*/true);
    return at::linear(output.select(1, length_ - 1), tensors[tensors.size() - 2], tensors.back());
  }

 private:
  int64_t length_, units_, layers_;
  uint64_t macs_ = 0;
  std::shared_ptr<const ParameterLayout> layout_;
  std::vector<Init> init_;
};

}  // namespace

std::unique_ptr<Net> make_lstm_net(const ModelOptions& options, const DataSpec& data,
                                   const std::string& device) {
  if (data.kind != data::Kind::kTokens || data.sample_shape.size() != 1 ||
      data.sample_shape[0] < 1 || data.vocabulary < 1) {
    fail("train/model", "model 'lstm' expects sequences of tokens, got samples of shape ",
         shape_text(data.sample_shape), "; use model.name = \"mlp\" or \"cnn\"");
  }
  return make_torch_net(std::make_unique<LstmModel>(options, data), device);
}

}  // namespace espalier::train

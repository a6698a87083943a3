#include "espalier/models/model_parts.h"

namespace espalier::models {

// Embedding, stacked LSTM, and a linear layer on the last step's output: the next-character net of
// McMahan et al. 2017. Parameters have the names and start of PyTorch's Embedding, LSTM and Linear.
Graph lstm(const ModelOptions& options, const DataSpec& data) {
  if (data.kind != data::Kind::kTokens || data.sample_shape.size() != 1 ||
      data.sample_shape[0] < 1 || data.vocabulary < 1) {
    fail("train/model", "model '", options.name,
         "' expects sequences of tokens, got samples of shape ", shape_text(data.sample_shape),
         data.sample_shape.size() == 3 ? "; use model.name = \"cnn\" or \"mlp\""
                                       : "; use model.name = \"mlp\"",
         ", or store tokens as integers (samples, length)");
  }
  GraphBuilder net(options.name, {1, 1, data.sample_shape[0]});
  int x = net.embedding("embedding", data.vocabulary, options.embedding);
  for (int64_t layer = 0; layer < options.lstm_layers; ++layer) {
    x = net.lstm(
        "lstm", x,
        {.units = options.lstm_units, .layer = layer, .last = layer == options.lstm_layers - 1});
  }
  net.linear("fc", x, data.num_classes, false);
  return std::move(net).finish();
}

}  // namespace espalier::models

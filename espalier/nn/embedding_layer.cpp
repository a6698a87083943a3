#include <algorithm>

#include "espalier/nn/layer.h"

// Rows of a table by token. Tokens stand sample by sample, the sequence it gives step by step.
namespace espalier::nn {
namespace {

class EmbeddingLayer final : public Layer {
 public:
  explicit EmbeddingLayer(const LayerContext& c)
      : batch_(static_cast<size_t>(c.batch)),
        steps_(static_cast<size_t>(c.node.out.width)),
        features_(static_cast<size_t>(c.node.out.channels)),
        weight_(tensor_offset(c.layout, c.node.weight)),
        size_(static_cast<size_t>(c.layout.tensors()[static_cast<size_t>(c.node.weight)].size)) {
    ESPALIER_CHECK(c.out == Type::kFloat && c.node.input == kGraphInput,
                   "an embedding reads the batch's tokens");
  }

  void forward(const Frame& frame) override {
    const float* table = frame.weights + weight_;
    float* y = frame.at<float>(slots.y);
    each(frame, [&](size_t token, size_t place) {
      std::copy_n(table + token * features_, features_, y + place * features_);
    });
  }

  void backward(const Frame& frame) override {
    float* table = frame.gradients + weight_;
    const float* dy = frame.at<float>(slots.dy);
    std::fill_n(table, size_, 0.0f);
    each(frame, [&](size_t token, size_t place) {
      for (size_t i = 0; i < features_; ++i)
        table[token * features_ + i] += dy[place * features_ + i];
    });
  }

 private:
  template <class Body>
  void each(const Frame& frame, Body body) const {
    const int64_t* tokens = frame.at<int64_t>(slots.x);
    for (size_t step = 0; step < steps_; ++step) {
      for (size_t n = 0; n < batch_; ++n)
        body(static_cast<size_t>(tokens[n * steps_ + step]), step * batch_ + n);
    }
  }

  size_t batch_, steps_, features_, weight_, size_;
};

}  // namespace

std::unique_ptr<Layer> make_embedding_layer(const LayerContext& context) {
  return std::make_unique<EmbeddingLayer>(context);
}

}  // namespace espalier::nn

#include "espalier/nn/dot_linear.h"
#include "espalier/nn/kernels.h"
#include "espalier/nn/layer.h"
#include "espalier/nn/onednn.h"
#include "espalier/nn/small_batch.h"

// y = relu(x·Wᵀ + b), all of it float, W: [out, in]. The matrix products are oneDNN's, which knows
// newer processors than OpenBLAS does (2–4 times faster at a federated client's small batches), or
// our own where the weights are many and the samples few: small_batch.h, in nets that compute in
// bf16 dot_linear.h.
namespace espalier::nn {
namespace {

class LinearLayer final : public Layer {
 public:
  explicit LinearLayer(const LayerContext& c)
      : batch_(c.batch),
        in_(c.node.in.size()),
        out_(c.node.out.size()),
        relu_(c.node.relu),
        weight_(tensor_offset(c.layout, c.node.weight)),
        bias_(tensor_offset(c.layout, c.node.bias)),
        shape_{static_cast<size_t>(c.batch), static_cast<size_t>(in_), static_cast<size_t>(out_)},
        small_(c.training && worth_small_batch(shape_)),
        dot_(small_ && c.net == Type::kBf16 && dot_linear(shape_)) {
    ESPALIER_CHECK(c.in == Type::kFloat && c.out == Type::kFloat,
                   "linear layers read and write fp32");
  }

  size_t scratch_bytes() const override {
    return dot_ ? dot_linear_scratch(shape_) : small_ ? small_batch_scratch(shape_) : 0;
  }
  Type product_type(Pass) const override { return dot_ ? Type::kBf16 : Type::kFloat; }
  uint64_t forward_macs() const override { return static_cast<uint64_t>(batch_ * in_ * out_); }
  uint64_t backward_macs() const override { return forward_macs() * (slots.dx != kNoSlot ? 2 : 1); }

  void forward(const Frame& frame) override {
    float* y = frame.at<float>(slots.y);
    if (dot_) {
      dot_linear_forward(shape_, frame.at<float>(slots.x), frame.weights + weight_, y,
                         frame.at<void>(slots.scratch));
    } else if (small_) {
      small_batch_forward(shape_, frame.at<float>(slots.x), frame.weights + weight_, y,
                          frame.at<float>(slots.scratch));
    } else {
      gemm('N', 'T', batch_, out_, in_, 1, frame.at<float>(slots.x), in_, frame.weights + weight_,
           in_, 0, y, out_);
    }
    add_bias(y, frame.weights + bias_, static_cast<size_t>(batch_), static_cast<size_t>(out_),
             relu_);
  }

  void backward(const Frame& frame) override {
    float* dy = frame.at<float>(slots.dy);
    float* weights = frame.weights + weight_;
    if (relu_) relu_backward(frame.at<float>(slots.y), dy, static_cast<size_t>(batch_ * out_));
    if (slots.dx != kNoSlot && !small_) {
      gemm('N', 'N', batch_, in_, out_, 1, dy, out_, weights, in_, 0, frame.at<float>(slots.dx),
           in_);
    }
    if (!small_) frame.parameters_begin();  // otherwise both are done at once
    column_sums(dy, static_cast<size_t>(batch_), static_cast<size_t>(out_),
                frame.gradients + bias_);
    // With an update at hand the product is added to the weights themselves: the gradient is never
    // written.
    const SgdUpdate* update = frame.update;
    if (small_) {
      LinearBackward data{frame.at<float>(slots.x), dy, weights, frame.at<float>(slots.dx)};
      if (update != nullptr) {
        data.rate = update->rate;
        data.keep = update->keep;
      } else {
        data.gradient = frame.gradients + weight_;
      }
      if (dot_) {
        dot_linear_backward(shape_, data, frame.at<void>(slots.scratch));
      } else {
        small_batch_backward(shape_, data, frame.at<float>(slots.scratch));
      }
      return;
    }
    gemm('T', 'N', out_, in_, batch_, update != nullptr ? -update->rate : 1.0f, dy, out_,
         frame.at<float>(slots.x), in_, update != nullptr ? update->keep : 0.0f,
         update != nullptr ? weights : frame.gradients + weight_, in_);
  }

 private:
  int64_t batch_, in_, out_;
  bool relu_;
  size_t weight_, bias_;
  LinearShape shape_;
  bool small_, dot_;
};

}  // namespace

std::unique_ptr<Layer> make_linear_layer(const LayerContext& context) {
  return std::make_unique<LinearLayer>(context);
}

}  // namespace espalier::nn

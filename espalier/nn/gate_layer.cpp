#include <algorithm>
#include <vector>

#include "espalier/nn/gate_kernels.h"
#include "espalier/nn/gated_kernels.h"
#include "espalier/nn/gates.h"
#include "espalier/nn/layer.h"
#include "espalier/nn/onednn.h"

// kGate and kScale (gates.h). A gate's gradient with respect to its input is the same at every
// pixel: it goes to the layer in front as one value per sample and channel (Slots::even).
namespace espalier::nn {
namespace {

class GateLayer final : public Layer {
 public:
  explicit GateLayer(const LayerContext& c)
      : type_(c.in),
        training_(c.training),
        sigmoid_(c.node.sigmoid),
        penalty_weight_(c.node.penalty),
        weight_(tensor_offset(c.layout, c.node.weight)),
        bias_(tensor_offset(c.layout, c.node.bias)),
        ratio_(tensor_offset(c.layout, c.node.counter)),
        batch_(static_cast<size_t>(c.batch)),
        in_(static_cast<size_t>(c.node.in.channels)),
        out_(static_cast<size_t>(c.node.out.channels)),
        pixels_(static_cast<size_t>(c.node.in.pixels())) {
    ESPALIER_CHECK(c.out == Type::kFloat, "gates are fp32");
  }

  // The transposed weights, then a sample's gates.
  size_t scratch_bytes() const override { return (in_ + 1) * out_ * sizeof(float); }

  uint64_t forward_macs() const override { return batch_ * in_ * out_; }
  uint64_t backward_macs() const override { return forward_macs() * (slots.dx != kNoSlot ? 2 : 1); }

  void forward(const Frame& frame) override {
    float* s = frame.at<float>(slots.means);
    if (slots.x != kNoSlot) {
      for (size_t n = 0; n < batch_; ++n) {
        const size_t at = n * pixels_ * in_;
        if (type_ == Type::kFloat) {
          channel_means(frame.at<float>(slots.x) + at, pixels_, in_, s + n * in_);
        } else {
          channel_means(frame.at<Bf16>(slots.x) + at, pixels_, in_, s + n * in_);
        }
      }
    }
    if (sigmoid_) sigmoid(s, batch_ * in_);
    float* transposed = frame.at<float>(slots.scratch);
    float* work = transposed + in_ * out_;
    float* g = frame.at<float>(slots.y);
    transpose(frame.weights + weight_, out_, in_, transposed);
    gate_values({batch_, in_, out_}, s, transposed, frame.weights + bias_, g);
    const auto kept =
        static_cast<size_t>(salient_channels(frame.weights[ratio_], static_cast<int64_t>(out_)));
    for (size_t n = 0; n < batch_; ++n) keep_largest(g + n * out_, out_, kept, work);
    penalty_ = 0;
    if (!training_ || penalty_weight_ == 0) return;
    for (size_t i = 0; i < batch_ * out_; ++i) penalty_ += static_cast<double>(g[i]);
    penalty_ *= penalty_weight_;
  }
  double penalty() const override { return penalty_; }

  // dy is 0 where the gate is (what it scales sees to that).
  void backward(const Frame& frame) override {
    const float *g = frame.at<float>(slots.y), *s = frame.at<float>(slots.means);
    float* dg = frame.at<float>(slots.dy);
    if (penalty_weight_ != 0) {
      const auto slope = static_cast<float>(penalty_weight_ / static_cast<double>(batch_));
      for (size_t i = 0; i < batch_ * out_; ++i) dg[i] += g[i] > 0 ? slope : 0.0f;
    }
    const auto batch = static_cast<int64_t>(batch_), in = static_cast<int64_t>(in_),
               out = static_cast<int64_t>(out_);
    column_sums(dg, batch_, out_, frame.gradients + bias_);
    gemm('T', 'N', out, in, batch, 1, dg, out, s, in, 0, frame.gradients + weight_, in);
    if (slots.dx == kNoSlot) return;
    float* dx = frame.at<float>(slots.dx);
    gemm('N', 'N', batch, in, out, 1, dg, out, frame.weights + weight_, in, 0, dx, in);
    const float share = 1.0f / static_cast<float>(pixels_);
    for (size_t i = 0; i < batch_ * in_; ++i) dx[i] *= sigmoid_ ? share * s[i] * (1 - s[i]) : share;
  }

 private:
  Type type_;
  bool training_, sigmoid_;
  double penalty_weight_, penalty_ = 0;
  size_t weight_, bias_, ratio_, batch_, in_, out_, pixels_;
};

// y = relu(g·x + [g > 0]·β), without β in mode "gated". The gradient in one pass: dx = g·dz, dg =
// Σ dz·x, dβ = Σ [g > 0]·dz. A channel that is switched off has dx = 0, which spares a sparse
// convolution behind it its work (sparse_conv.h).
class ScaleLayer final : public Layer {
 public:
  explicit ScaleLayer(const LayerContext& c)
      : type_(c.out),
        training_(c.training),
        relu_(c.node.relu),
        bias_(c.node.bias == kNone ? kNoSlot : tensor_offset(c.layout, c.node.bias)),
        batch_(static_cast<size_t>(c.batch)),
        channels_(static_cast<size_t>(c.node.in.channels)),
        pixels_(static_cast<size_t>(c.node.in.pixels())),
        shift_(channels_, 0.0f) {}

  size_t scratch_bytes() const override { return training_ ? channels_ * sizeof(float) : 0; }
  size_t owned_bytes() const override { return channels_ * sizeof(float); }
  bool backward_in_place() const override { return true; }
  bool gives_means() const override { return true; }

  void forward(const Frame& frame) override {
    by_type(type_, [&](auto value) { run_forward<decltype(value)>(frame); });
  }
  void backward(const Frame& frame) override {
    by_type(type_, [&](auto value) { run_backward<decltype(value)>(frame); });
  }

 private:
  template <class T>
  void run_forward(const Frame& frame) {
    float* means = frame.at<float>(slots.means);
    for (size_t n = 0; n < batch_; ++n) {
      const size_t at = n * pixels_ * channels_;
      const float* g = frame.at<float>(slots.gate) + n * channels_;
      if (bias_ != kNoSlot) {
        for (size_t c = 0; c < channels_; ++c)
          shift_[c] = g[c] > 0 ? frame.weights[bias_ + c] : 0.0f;
      }
      const GatedAffine<T> in{.x = frame.at<T>(slots.x) + at,
                              .a = g,
                              .b = shift_.data(),
                              .relu = relu_,
                              .means = means == nullptr ? nullptr : means + n * channels_};
      gated_affine({pixels_, channels_}, in, frame.at<T>(slots.y) + at);
    }
  }

  // Always in place: dx is dy, whether it is wanted or not.
  template <class T>
  void run_backward(const Frame& frame) {
    const float* even = frame.at<float>(slots.even);
    float* sum = frame.at<float>(slots.scratch);
    if (bias_ != kNoSlot) std::fill_n(frame.gradients + bias_, channels_, 0.0f);
    for (size_t n = 0; n < batch_; ++n) {
      const size_t at = n * pixels_ * channels_, row = n * channels_;
      const float* g = frame.at<float>(slots.gate) + row;
      float* dg = frame.at<float>(slots.dgate) + row;
      const GatedGradient<T> in{.y = relu_ ? frame.at<T>(slots.y) + at : nullptr,
                                .x = frame.at<T>(slots.x) + at,
                                .even = even == nullptr ? nullptr : even + row,
                                .scale = g,
                                .sum = sum,
                                .product = dg};
      gated_gradient_sums({pixels_, channels_}, in, frame.at<T>(slots.dy) + at);
      for (size_t c = 0; c < channels_; ++c) {
        const bool open = g[c] > 0;
        if (!open) dg[c] = 0;
        if (open && bias_ != kNoSlot) frame.gradients[bias_ + c] += sum[c];
      }
    }
  }

  Type type_;
  bool training_, relu_;
  size_t bias_, batch_, channels_, pixels_;
  std::vector<float> shift_;
};

}  // namespace

std::unique_ptr<Layer> make_gate_layer(const LayerContext& context) {
  return std::make_unique<GateLayer>(context);
}
std::unique_ptr<Layer> make_scale_layer(const LayerContext& context) {
  return std::make_unique<ScaleLayer>(context);
}

}  // namespace espalier::nn

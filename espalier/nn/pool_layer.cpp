#include "espalier/nn/gated_kernels.h"
#include "espalier/nn/kernels.h"
#include "espalier/nn/layer.h"

namespace espalier::nn {
namespace {

class MaxPoolLayer final : public Layer {
 public:
  explicit MaxPoolLayer(const LayerContext& c)
      : type_(c.out),
        training_(c.training),
        positive_(c.front != nullptr && c.front->relu),
        handed_on_(c.front != nullptr && sparse_backward(*c.front, c.node)) {
    const Node& n = c.node;
    const auto size = [](int64_t value) { return static_cast<size_t>(value); };
    shape_ = {size(c.batch),  size(n.in.height),  size(n.in.width), size(n.in.channels),
              size(n.kernel), size(n.out.height), size(n.out.width)};
  }
  size_t saved_bytes() const override {
    return training_ ? shape_.batch * shape_.out_height * shape_.out_width * shape_.channels : 0;
  }
  bool backward_in_place() const override { return handed_on_; }
  void forward(const Frame& frame) override {
    by_type(type_, [&](auto value) { run_forward<decltype(value)>(frame); });
  }
  void backward(const Frame& frame) override {
    if (slots.dx == kNoSlot) return;
    ESPALIER_CHECK(!handed_on_ || slots.even == kNoSlot, "a gate reads a sparse convolution");
    if (handed_on_) return;
    by_type(type_, [&](auto value) { run_backward<decltype(value)>(frame); });
  }

 private:
  template <class T>
  void run_forward(const Frame& frame) const {
    max_pool(shape_, frame.at<T>(slots.x), frame.at<T>(slots.y),
             training_ ? frame.at<uint8_t>(slots.saved) : nullptr);
  }
  template <class T>
  void run_backward(const Frame& frame) const {
    if (slots.even != kNoSlot) {
      const size_t pixels = shape_.out_height * shape_.out_width;
      for (size_t n = 0; n < shape_.batch; ++n) {
        add_even({pixels, shape_.channels}, frame.at<float>(slots.even) + n * shape_.channels,
                 frame.at<T>(slots.dy) + n * pixels * shape_.channels);
      }
    }
    max_pool_backward(shape_, frame.at<T>(slots.dy), frame.at<T>(slots.y),
                      frame.at<uint8_t>(slots.saved), positive_, frame.at<T>(slots.dx));
  }

  Type type_;
  bool training_, positive_, handed_on_;
  PoolShape shape_{};
};

// From an image to a vector of float: all values in PyTorch's order, or each channel's mean.
class VectorLayer final : public Layer {
 public:
  explicit VectorLayer(const LayerContext& c)
      : average_(c.node.op == Op::kGlobalAverage),
        type_(c.in),
        batch_(static_cast<size_t>(c.batch)),
        pixels_(static_cast<size_t>(c.node.in.pixels())),
        channels_(static_cast<size_t>(c.node.in.channels)) {
    ESPALIER_CHECK(c.out == Type::kFloat, "vectors are fp32");
  }
  void forward(const Frame& frame) override {
    by_type(type_, [&](auto value) { run_forward<decltype(value)>(frame); });
  }
  void backward(const Frame& frame) override {
    if (slots.dx == kNoSlot) return;
    by_type(type_, [&](auto value) { run_backward<decltype(value)>(frame); });
  }

 private:
  template <class T>
  void run_forward(const Frame& frame) const {
    const auto run =
        average_ ? static_cast<void (*)(const T*, size_t, size_t, size_t, float*)>(global_average)
                 : static_cast<void (*)(const T*, size_t, size_t, size_t, float*)>(flatten);
    run(frame.at<T>(slots.x), batch_, pixels_, channels_, frame.at<float>(slots.y));
  }
  template <class T>
  void run_backward(const Frame& frame) const {
    if (average_) {
      global_average_backward(frame.at<float>(slots.dy), batch_, pixels_, channels_,
                              frame.at<T>(slots.dx));
    } else {
      unflatten(frame.at<float>(slots.dy), batch_, pixels_, channels_, frame.at<T>(slots.dx));
    }
  }

  bool average_;
  Type type_;
  size_t batch_, pixels_, channels_;
};

}  // namespace

std::unique_ptr<Layer> make_pool_layer(const LayerContext& context) {
  return std::make_unique<MaxPoolLayer>(context);
}
std::unique_ptr<Layer> make_vector_layer(const LayerContext& context) {
  return std::make_unique<VectorLayer>(context);
}

}  // namespace espalier::nn

#include <memory>

#include "espalier/nn/dot_linear.h"
#include "espalier/nn/kernels.h"
#include "espalier/nn/layer.h"
#include "espalier/nn/onednn.h"
#include "espalier/nn/small_batch.h"

// y = relu(x·Wᵀ + b), all of it float, W: [out, in]. The matrix products are oneDNN's, which knows
// newer processors than OpenBLAS does (2–4 times faster at a federated client's small batches), or
// our own where the weights are many and the samples few: small_batch.h, in nets that compute in
// bf16 dot_linear.h. Such nets round what large layers multiply in every evaluation, however large
// the batches are that they are trained with.
namespace espalier::nn {
namespace {

// y = x·Wᵀ of values rounded to bf16, by oneDNN, for evaluation.
class RoundedProduct {
 public:
  RoundedProduct(int64_t batch, int64_t in, int64_t out) {
    using dnnl::memory;
    using Tag = memory::format_tag;
    const auto bf16 = memory::data_type::bf16, f32 = memory::data_type::f32;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const memory::desc y({batch, out}, f32, Tag::nc);
    const dnnl::inner_product_forward::primitive_desc desc(
        {dnnl::prop_kind::forward_inference, memory::desc({batch, in}, bf16, Tag::nc),
         memory::desc({out, in}, bf16, Tag::any), y},
        attributes, cpu_engine());
    primitive_ = dnnl::inner_product_forward(desc);
    round_inputs_ = Reorder(memory::desc({batch, in}, f32, Tag::nc), desc.src_desc());
    round_weights_ = Reorder(memory::desc({out, in}, f32, Tag::oi), desc.weights_desc());
    x_ = memory(desc.src_desc(), cpu_engine(), nullptr);
    w_ = memory(desc.weights_desc(), cpu_engine(), nullptr);
    y_ = memory(y, cpu_engine(), nullptr);
    scratchpad_ = memory(desc.scratchpad_desc(), cpu_engine(), nullptr);
  }
  size_t scratch_bytes() const {
    return padded(x_) + padded(w_) + scratchpad_.get_desc().get_size();
  }
  size_t owned_bytes() const {
    return round_inputs_.scratch_bytes() + round_weights_.scratch_bytes();
  }
  void run(const float* x, const float* w, float* y, uint8_t* scratch) {
    uint8_t* const weights = scratch + padded(x_);
    round_inputs_.run(x, scratch);
    round_weights_.run(w, weights);
    x_.set_data_handle(scratch);
    w_.set_data_handle(weights);
    y_.set_data_handle(y);
    scratchpad_.set_data_handle(weights + padded(w_));
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, x_.get()},
                                    {DNNL_ARG_WEIGHTS, w_.get()},
                                    {DNNL_ARG_DST, y_.get()},
                                    {DNNL_ARG_SCRATCHPAD, scratchpad_.get()}};
    execute(primitive_, args, 4);
  }

 private:
  static size_t padded(const dnnl::memory& values) {
    return (values.get_desc().get_size() + 63) / 64 * 64;
  }
  dnnl::inner_product_forward primitive_;
  Reorder round_inputs_, round_weights_;
  dnnl::memory x_, w_, y_, scratchpad_;
};

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
    // Where the training of small batches rounds as well.
    const LinearShape small{2, shape_.in, shape_.out};
    if (!c.training && c.net == Type::kBf16 && worth_small_batch(small) && dot_linear(small))
      rounded_ = std::make_unique<RoundedProduct>(batch_, in_, out_);
  }

  size_t scratch_bytes() const override {
    if (rounded_ != nullptr) return rounded_->scratch_bytes();
    return dot_ ? dot_linear_scratch(shape_) : small_ ? small_batch_scratch(shape_) : 0;
  }
  size_t owned_bytes() const override { return rounded_ == nullptr ? 0 : rounded_->owned_bytes(); }
  Type product_type(Pass) const override {
    return dot_ || rounded_ != nullptr ? Type::kBf16 : Type::kFloat;
  }
  uint64_t forward_macs() const override { return static_cast<uint64_t>(batch_ * in_ * out_); }
  uint64_t backward_macs() const override { return forward_macs() * (slots.dx != kNoSlot ? 2 : 1); }

  bool reads_elsewhere() const override { return small_ && !dot_; }

  void forward(const Frame& frame) override {
    float* y = frame.at<float>(slots.y);
    if (rounded_ != nullptr) {
      rounded_->run(frame.at<float>(slots.x), frame.weights + weight_, y,
                    frame.at<uint8_t>(slots.scratch));
    } else if (dot_) {
      dot_linear_forward(shape_, frame.at<float>(slots.x), frame.weights + weight_, y,
                         frame.at<void>(slots.scratch));
    } else if (small_) {
      small_batch_forward(shape_, frame.at<float>(slots.x), frame.weights_before() + weight_, y,
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
        if (!dot_) data.from = frame.weights_before() + weight_;
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
  std::unique_ptr<RoundedProduct> rounded_;
};

}  // namespace

std::unique_ptr<Layer> make_linear_layer(const LayerContext& context) {
  return std::make_unique<LinearLayer>(context);
}

}  // namespace espalier::nn

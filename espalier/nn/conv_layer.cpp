#include <cstring>
#include <dnnl.hpp>

#include "espalier/nn/dot_conv.h"
#include "espalier/nn/kernels.h"
#include "espalier/nn/layer.h"
#include "espalier/nn/onednn.h"
#include "espalier/nn/sparse_conv.h"
#include "espalier/nn/thin_conv.h"
#include "espalier/nn/thin_forward.h"

// Convolutions on channels-last activations, by oneDNN with bias and ReLU as part of the primitive;
// some passes by kernels of our own (sparse_conv.h, thin_conv.h, thin_forward.h, dot_conv.h).
// Weights live in PyTorch's order [out, in, kh, kw] in the flat buffer and are brought into the
// primitive's order in the scratch area just before each call (10–20 µs for 50,000 values of 3×3
// kernels, which also rounds them to bf16), or once for the slices of an evaluated batch.
namespace espalier::nn {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

ConvShape shape_of(const LayerContext& c) {
  const auto size = [](int64_t value) { return static_cast<size_t>(value); };
  const Node& n = c.node;
  return {size(c.batch),        size(n.in.height),  size(n.in.width),  size(n.in.channels),
          size(n.out.channels), size(n.out.height), size(n.out.width), size(n.kernel),
          size(n.stride),       size(n.padding)};
}

class ConvLayer final : public Layer {
 public:
  explicit ConvLayer(const LayerContext& c)
      : type_(c.out),
        relu_(c.node.relu),
        mask_(c.node.relu && c.pool == nullptr),
        sparse_(c.pool != nullptr && sparse_backward(c.node, *c.pool)) {
    const Node& n = c.node;
    weight_ = tensor_offset(c.layout, n.weight);
    bias_ = n.bias == kNone ? kNoSlot : tensor_offset(c.layout, n.bias);
    values_ = static_cast<size_t>(c.batch * n.out.size());
    taps_ = static_cast<uint64_t>(n.in.channels * n.kernel * n.kernel);

    const auto type = onednn_type(type_);
    const auto f32 = memory::data_type::f32;
    const memory::dims weights = {n.out.channels, n.in.channels, n.kernel, n.kernel};
    const memory::dims strides = {n.stride, n.stride}, padding = {n.padding, n.padding};
    const memory::desc x({c.batch, n.in.channels, n.in.height, n.in.width}, type, Tag::nhwc);
    const memory::desc y({c.batch, n.out.channels, n.out.height, n.out.width}, type, Tag::nhwc);
    const memory::desc w(weights, type, Tag::any), dw(weights, f32, Tag::any);
    const memory::desc bias =
        bias_ == kNoSlot ? memory::desc() : memory::desc({n.out.channels}, f32, Tag::a);
    const memory::desc user(weights, f32, Tag::oihw);

    dnnl::primitive_attr attributes, relu;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    relu.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (n.relu) {
      dnnl::post_ops ops;
      ops.append_eltwise(1.0f, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
      relu.set_post_ops(ops);
    }
    const auto algorithm = dnnl::algorithm::convolution_direct;
    const dnnl::engine& engine = cpu_engine();
    shape_ = shape_of(c);
    thin_forward_ = type_ == Type::kBf16 && c.in == Type::kBf16 && thin_forward(shape_);
    const auto kind =
        c.training ? dnnl::prop_kind::forward_training : dnnl::prop_kind::forward_inference;
    const dnnl::convolution_forward::desc forward_desc =
        bias_ == kNoSlot
            ? dnnl::convolution_forward::desc(kind, algorithm, x, w, y, strides, padding, padding)
            : dnnl::convolution_forward::desc(kind, algorithm, x, w, bias, y, strides, padding,
                                              padding);
    const dnnl::convolution_forward::primitive_desc forward(forward_desc, relu, engine);
    forward_ = Step(forward, forward.src_desc(), forward.weights_desc(), forward.dst_desc(), bias);
    forward_weights_ = WeightOrder(user, forward.weights_desc(), n.kernel);
    scratch_bytes_ = thin_forward_
                         ? thin_forward_scratch(shape_)
                         : std::max(forward_.scratch_bytes(), forward_weights_.scratch_bytes());
    if (!c.training) return;
    if (sparse_) {
      make_sparse(c, user);
      return;
    }
    // What reads the samples.
    thin_ =
        type_ == Type::kBf16 && c.in == Type::kBf16 && n.input == kGraphInput && thin_conv(shape_);
    if (thin_) {
      scratch_bytes_ = std::max(scratch_bytes_, thin_conv_scratch(shape_));
      return;
    }

    if (n.input != kGraphInput) {
      const dnnl::convolution_backward_data::primitive_desc backward(
          {algorithm, x, w, y, strides, padding, padding}, attributes, engine, forward);
      data_ = Step(backward, backward.diff_src_desc(), backward.weights_desc(),
                   backward.diff_dst_desc(), {});
      data_weights_ = Reorder(user, backward.weights_desc());
      scratch_bytes_ = std::max(scratch_bytes_, data_.scratch_bytes());
    }
    dot_ = type_ == Type::kBf16 && c.in == Type::kBf16 && worth_dot_conv(shape_);
    if (dot_) {
      scratch_bytes_ = std::max(scratch_bytes_, dot_conv_scratch(shape_));
      return;
    }
    const dnnl::convolution_backward_weights::desc gradient_desc =
        bias_ == kNoSlot ? dnnl::convolution_backward_weights::desc(algorithm, x, dw, y, strides,
                                                                    padding, padding)
                         : dnnl::convolution_backward_weights::desc(algorithm, x, dw, bias, y,
                                                                    strides, padding, padding);
    const dnnl::convolution_backward_weights::primitive_desc gradient(gradient_desc, attributes,
                                                                      engine, forward);
    gradient_ = Step(gradient, gradient.src_desc(), gradient.diff_weights_desc(),
                     gradient.diff_dst_desc(), bias);
    gradient_weights_ = Reorder(gradient.diff_weights_desc(), user);
    scratch_bytes_ = std::max(scratch_bytes_, gradient_.scratch_bytes());
  }

  size_t scratch_bytes() const override { return scratch_bytes_; }
  size_t owned_bytes() const override {
    return forward_weights_.owned_bytes() + data_weights_.scratch_bytes() +
           gradient_weights_.scratch_bytes() + sparse_bytes();
  }

  uint64_t forward_macs() const override { return values_ * taps_; }
  uint64_t backward_macs() const override {
    return (sparse_ ? sparse_scratch_.walked : values_) * taps_ * (slots.dx != kNoSlot ? 2 : 1);
  }

  Type product_type(Pass pass) const override {
    const bool in_fp32 = thin_ || (sparse_ && !has_sparse_dot());
    return pass == Pass::kBackward && in_fp32 ? Type::kFloat : type_;
  }

  void forward(const Frame& frame) override {
    uint8_t* scratch = frame.at<uint8_t>(slots.scratch);
    if (thin_forward_) {
      thin_forward(shape_, frame.at<Bf16>(slots.x), frame.weights + weight_,
                   bias_ == kNoSlot ? nullptr : frame.weights + bias_, relu_,
                   frame.at<Bf16>(slots.y), scratch);
      return;
    }
    uint8_t* weights = frame.at<uint8_t>(slots.prepared);
    if (weights == nullptr) {
      weights = scratch;
      forward_weights_.run(frame.weights + weight_, weights, scratch);
    }
    forward_.run(DNNL_ARG_SRC, frame.at<void>(slots.x), DNNL_ARG_WEIGHTS, weights, DNNL_ARG_DST,
                 frame.at<void>(slots.y), DNNL_ARG_BIAS,
                 bias_ == kNoSlot ? nullptr : frame.weights + bias_, scratch);
  }

  size_t prepared_bytes() const override {
    return thin_forward_ ? 0 : forward_weights_.weight_bytes();
  }
  void prepare(const Frame& frame) override {
    forward_weights_.run(frame.weights + weight_, frame.at<uint8_t>(slots.prepared),
                         frame.at<uint8_t>(slots.scratch));
  }

  void backward(const Frame& frame) override {
    if (sparse_) {
      run_sparse(frame);
      return;
    }
    uint8_t* scratch = frame.at<uint8_t>(slots.scratch);
    void* dy = frame.at<void>(slots.dy);
    if (mask_) {
      if (type_ == Type::kFloat) {
        relu_backward(frame.at<float>(slots.y), static_cast<float*>(dy), values_);
      } else {
        relu_backward(frame.at<Bf16>(slots.y), static_cast<Bf16*>(dy), values_);
      }
    }
    if (slots.dx != kNoSlot) {
      data_weights_.run(frame.weights + weight_, scratch);
      data_.run(DNNL_ARG_DIFF_SRC, frame.at<void>(slots.dx), DNNL_ARG_WEIGHTS, scratch,
                DNNL_ARG_DIFF_DST, dy, 0, nullptr, scratch);
    }
    frame.parameters_begin();
    if (thin_) {
      thin_conv_gradient(
          shape_, frame.at<Bf16>(slots.x), static_cast<Bf16*>(dy), frame.gradients + weight_,
          bias_ == kNoSlot ? nullptr : frame.gradients + bias_, frame.at<float>(slots.scratch));
      return;
    }
    if (dot_) {
      dot_conv_gradient(shape_, frame.at<Bf16>(slots.x), static_cast<Bf16*>(dy),
                        frame.gradients + weight_,
                        bias_ == kNoSlot ? nullptr : frame.gradients + bias_, scratch);
      return;
    }
    gradient_.run(DNNL_ARG_SRC, frame.at<void>(slots.x), DNNL_ARG_DIFF_WEIGHTS, scratch,
                  DNNL_ARG_DIFF_DST, dy, DNNL_ARG_DIFF_BIAS,
                  bias_ == kNoSlot ? nullptr : frame.gradients + bias_, scratch);
    gradient_weights_.run(scratch, frame.gradients + weight_);
  }

 private:
  size_t sparse_bytes() const {
    if (!sparse_ || sparse_shape_.batch == 0) return 0;
    const bool dx = slots.dx != kNoSlot;
    return type_ == Type::kFloat ? sparse_conv_scratch_bytes<float>(sparse_shape_, dx)
                                 : sparse_conv_scratch_bytes<Bf16>(sparse_shape_, dx);
  }

  // fp32 weights in the order that a primitive wants. oneDNN brings kernels of 5×5 and more into
  // its order for bf16 value by value, at a third of the speed of doing it by way of weights with
  // the channels last.
  class WeightOrder {
   public:
    WeightOrder() = default;
    WeightOrder(const memory::desc& user, const memory::desc& wanted, int64_t kernel)
        : weight_bytes_((wanted.get_size() + 63) / 64 * 64), halfway_(kernel >= 5) {
      halfway_ = halfway_ && wanted.data_type() == memory::data_type::bf16;
      if (!halfway_) {
        order_ = Reorder(user, wanted);
        return;
      }
      const memory::desc last(wanted.dims(), memory::data_type::bf16, memory::format_tag::acdb);
      first_ = Reorder(user, last);
      order_ = Reorder(last, wanted);
      halfway_bytes_ = last.get_size();
    }
    size_t weight_bytes() const { return weight_bytes_; }
    // Of run()'s scratch area, with room for the weights at its front.
    size_t scratch_bytes() const { return weight_bytes_ + halfway_bytes_; }
    size_t owned_bytes() const { return order_.scratch_bytes() + first_.scratch_bytes(); }
    void run(const float* from, uint8_t* to, uint8_t* scratch) {
      if (halfway_) first_.run(from, scratch + weight_bytes_);
      order_.run(halfway_ ? static_cast<const void*>(scratch + weight_bytes_) : from, to);
    }

   private:
    Reorder first_, order_;
    size_t weight_bytes_ = 0, halfway_bytes_ = 0;
    bool halfway_ = false;
  };

  // A primitive with its arguments. In the scratch area there is room for the weights at the front,
  // and oneDNN's own scratchpad behind.
  class Step {
   public:
    Step() = default;
    template <class Desc>
    Step(const Desc& desc, const memory::desc& source, const memory::desc& weights,
         const memory::desc& destination, const memory::desc& bias)
        : primitive_(desc.get()),
          source_(source, cpu_engine(), nullptr),
          weights_(weights, cpu_engine(), nullptr),
          destination_(destination, cpu_engine(), nullptr),
          scratchpad_(desc.scratchpad_desc(), cpu_engine(), nullptr),
          weight_bytes_((weights.get_size() + 63) / 64 * 64) {
      if (bias.get_size() != 0) bias_ = memory(bias, cpu_engine(), nullptr);
    }
    size_t scratch_bytes() const { return weight_bytes_ + scratchpad_.get_desc().get_size(); }
    void run(int source_arg, void* source, int weights_arg, uint8_t* weights, int destination_arg,
             void* destination, int bias_arg, void* bias, uint8_t* scratch) {
      source_.set_data_handle(source);
      weights_.set_data_handle(weights);
      destination_.set_data_handle(destination);
      scratchpad_.set_data_handle(scratch + weight_bytes_);
      dnnl_exec_arg_t args[5] = {{source_arg, source_.get()},
                                 {weights_arg, weights_.get()},
                                 {destination_arg, destination_.get()},
                                 {DNNL_ARG_SCRATCHPAD, scratchpad_.get()},
                                 {bias_arg, nullptr}};
      if (bias != nullptr) {
        bias_.set_data_handle(bias);
        args[4].memory = bias_.get();
      }
      execute(primitive_, args, bias == nullptr ? 4 : 5);
    }

   private:
    dnnl::primitive primitive_;
    memory source_, weights_, destination_, scratchpad_, bias_;
    size_t weight_bytes_ = 0;
  };

  void make_sparse(const LayerContext& c, const memory::desc& user) {
    const auto size = [](int64_t value) { return static_cast<size_t>(value); };
    const Node &n = c.node, &pool = *c.pool;
    sparse_shape_ = {size(c.batch),       size(n.in.height),     size(n.in.width),
                     size(n.in.channels), size(n.out.channels),  size(n.kernel),
                     size(n.padding),     size(pool.out.height), size(pool.out.width),
                     size(pool.kernel)};
    const auto padded = static_cast<int64_t>(padded_channels(sparse_shape_));
    const memory::desc taps(
        {n.out.channels, n.in.channels, n.kernel, n.kernel}, memory::data_type::f32,
        memory::dims{n.kernel * n.kernel * padded, 1, n.kernel * padded, padded});
    tap_bytes_ = static_cast<size_t>(n.out.channels * n.kernel * n.kernel * padded) * sizeof(float);
    data_weights_ = Reorder(user, taps);
    gradient_weights_ = Reorder(taps, user);
    scratch_bytes_ = std::max(scratch_bytes_, 2 * tap_bytes_);
  }

  void run_sparse(const Frame& frame) {
    auto* weights = frame.at<float>(slots.scratch);
    auto* gradient = frame.at<float>(slots.scratch + tap_bytes_);
    if (slots.dx != kNoSlot) {
      // The padding must be 0; the scratch area is everybody's.
      if (padded_channels(sparse_shape_) != sparse_shape_.channels)
        std::memset(weights, 0, tap_bytes_);
      data_weights_.run(frame.weights + weight_, weights);
    }
    by_type(type_, [&](auto value) {
      using T = decltype(value);
      sparse_conv_backward(
          sparse_shape_,
          SparseConvData<T>{.x = frame.at<T>(slots.x),
                            .dy = frame.at<T>(slots.dy),
                            .y = relu_ ? frame.at<T>(slots.pooled) : nullptr,
                            .argmax = frame.at<uint8_t>(slots.argmax),
                            .weights = weights,
                            .weight_gradient = gradient,
                            .bias_gradient = bias_ == kNoSlot ? nullptr : frame.gradients + bias_,
                            .dx = frame.at<T>(slots.dx)},
          sparse_scratch_);
    });
    gradient_weights_.run(gradient, frame.gradients + weight_);
  }

  Type type_;
  bool relu_, mask_, sparse_;
  bool thin_forward_ = false;        // thin_forward() computes the outputs
  bool thin_ = false, dot_ = false;  // the weight gradient is thin_conv's or dot_conv's
  ConvShape shape_{};
  SparseConvShape sparse_shape_{};
  SparseConvScratch sparse_scratch_;
  size_t tap_bytes_ = 0;
  uint64_t taps_ = 0;  // products under one output
  size_t weight_ = 0, bias_ = kNoSlot, values_ = 0, scratch_bytes_ = 0;
  Step forward_, data_, gradient_;
  WeightOrder forward_weights_;
  Reorder data_weights_, gradient_weights_;
};

}  // namespace

bool sparse_backward(const Node& conv, const Node& pool) {
  return conv.stride == 1 && conv.in.channels >= 12 && pool.kernel >= 2 && pool.kernel <= 15;
}

std::unique_ptr<Layer> make_conv_layer(const LayerContext& context) {
  return std::make_unique<ConvLayer>(context);
}

}  // namespace espalier::nn

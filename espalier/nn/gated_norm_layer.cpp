#include <algorithm>
#include <cmath>
#include <vector>

#include "espalier/nn/gated_kernels.h"
#include "espalier/nn/layer.h"
#include "espalier/nn/norm_kernels.h"
#include "espalier/nn/norm_statistics.h"

// Normalizations in nets with gates (gates.h): the gate, the residual and the ReLU are part of the
// same passes as in norm_layer.cpp, so that a gate costs no pass of its own; its input's means and
// its gradient with respect to them come and go with these passes too.
//
// With one gate g per sample and channel, dz the masked gradient of one sample's output, and the
// sample's sums P = Σ dz and Q = Σ dz·(x − μ), mode "gated" (y = g·(γ·x̂ + β)) has
//   dγ = Σ g·Q/σ, dβ = Σ g·P, dg = γ·Q/σ + β·P,
//   dx = γ/σ·(g·dz − mean(g·dz) − x̂·mean(g·dz·x̂)),
// and "fbs" (y = g·x̂ + [g > 0]·β) the same with γ = 1, dβ = Σ [g > 0]·P and dg = Q/σ. The means
// are over what the normalization's are: they couple a batch's samples, so that a channel switched
// off for one sample still has a dx there when it is on for another one. Where it is off for all
// samples dx, dγ, dβ and dg are exactly 0.
namespace espalier::nn {
namespace {

class GatedNormLayer final : public Layer {
 public:
  explicit GatedNormLayer(const LayerContext& c)
      : type_(c.out),
        training_(c.training),
        batch_norm_(c.node.op == Op::kBatchNorm),
        relu_(c.node.relu),
        fbs_(c.node.weight == kNone) {
    const Node& n = c.node;
    channels_ = static_cast<size_t>(n.in.channels);
    batch_ = static_cast<size_t>(c.batch);
    pixels_ = static_cast<size_t>(n.in.pixels());
    samples_ = batch_norm_ ? batch_ : 1;
    groups_ = {samples_ * pixels_, channels_,
               batch_norm_ ? channels_ : static_cast<size_t>(n.groups)};
    if (!fbs_) weight_ = tensor_offset(c.layout, n.weight);
    bias_ = tensor_offset(c.layout, n.bias);
    if (batch_norm_) {
      mean_ = tensor_offset(c.layout, n.mean);
      variance_ = tensor_offset(c.layout, n.variance);
      counter_ = tensor_offset(c.layout, n.counter);
    }
    for (auto* table : {&first_, &second_}) table->resize(channels_);
    for (auto* table : {&scale_, &shift_, &slope_, &a_, &b_}) table->resize(channels_);
  }

  // Each block's mean of every channel's group, then 1/σ likewise.
  size_t saved_bytes() const override {
    return training_ ? 2 * (batch_ / samples_) * channels_ * sizeof(float) : 0;
  }
  // P and Q of every sample.
  size_t scratch_bytes() const override {
    return training_ ? 2 * batch_ * channels_ * sizeof(float) : 0;
  }
  bool backward_in_place() const override { return true; }
  bool gives_means() const override { return true; }
  size_t owned_bytes() const override {
    return channels_ * (2 * sizeof(double) + 5 * sizeof(float));  // the tables below
  }

  void forward(const Frame& frame) override {
    by_type(type_, [&](auto value) { run_forward<decltype(value)>(frame); });
  }
  void backward(const Frame& frame) override {
    by_type(type_, [&](auto value) { run_backward<decltype(value)>(frame); });
  }

 private:
  size_t size() const { return pixels_ * channels_; }
  template <class T>
  static T* at(T* values, size_t offset) {
    return values == nullptr ? nullptr : values + offset;
  }
  double gamma(const Frame& frame, size_t c) const {
    return fbs_ ? 1.0 : static_cast<double>(frame.weights[weight_ + c]);
  }

  // The statistics of a block, and with them y = g·(scale·x + shift) (+ β where g > 0, "fbs").
  template <class T>
  void normalize(const Frame& frame, size_t block, const T* x) {
    if (batch_norm_ && !training_) {
      for (size_t c = 0; c < channels_; ++c) {
        first_[c] = static_cast<double>(frame.weights[mean_ + c]);
        second_[c] = static_cast<double>(frame.weights[variance_ + c]);
      }
    } else {
      moments({groups_.rows, channels_}, x, first_.data(), second_.data());
      join_groups(groups_, first_.data(), second_.data());
      if (batch_norm_) {
        update_statistics(groups_, first_.data(), second_.data(), frame.weights + mean_,
                          frame.weights + variance_, frame.weights + counter_);
      }
    }
    float* mean = training_ ? frame.at<float>(slots.saved) + 2 * block * channels_ : nullptr;
    for (size_t c = 0; c < channels_; ++c) {
      const double inverse = 1 / std::sqrt(second_[c] + static_cast<double>(kNormEpsilon));
      const double scale = gamma(frame, c) * inverse;
      const double beta = fbs_ ? 0.0 : static_cast<double>(frame.weights[bias_ + c]);
      scale_[c] = static_cast<float>(scale);
      shift_[c] = static_cast<float>(beta - scale * first_[c]);
      if (mean != nullptr) {
        mean[c] = static_cast<float>(first_[c]);
        mean[channels_ + c] = static_cast<float>(inverse);
      }
    }
  }

  template <class T>
  void run_forward(const Frame& frame) {
    const T* x = frame.at<T>(slots.x);
    const T* residual = frame.at<T>(slots.residual);
    const float* gates = frame.at<float>(slots.gate);
    float* means = frame.at<float>(slots.means);
    for (size_t n = 0; n < batch_; ++n) {
      if (n % samples_ == 0) normalize(frame, n / samples_, x + n * size());
      GatedAffine<T> in{.x = x + n * size(),
                        .residual = at(residual, n * size()),
                        .a = scale_.data(),
                        .b = shift_.data(),
                        .relu = relu_,
                        .means = at(means, n * channels_)};
      if (gates != nullptr) {
        const float* g = gates + n * channels_;
        const float* beta = frame.weights + bias_;
        for (size_t c = 0; c < channels_; ++c) {
          a_[c] = g[c] * scale_[c];
          b_[c] = g[c] * shift_[c];
          if (fbs_) b_[c] += g[c] > 0 ? beta[c] : 0.0f;
        }
        in.a = a_.data();
        in.b = b_.data();
      }
      gated_affine({pixels_, channels_}, in, frame.at<T>(slots.y) + n * size());
    }
  }

  template <class T>
  void run_backward(const Frame& frame) {
    const T *x = frame.at<T>(slots.x), *y = relu_ ? frame.at<T>(slots.y) : nullptr;
    const T* more = frame.at<T>(slots.more_dy);
    const float* even = frame.at<float>(slots.even);
    T *dy = frame.at<T>(slots.dy), *dx = frame.at<T>(slots.dx);
    float* sums = frame.at<float>(slots.scratch);
    float* products = sums + batch_ * channels_;
    std::fill_n(frame.gradients + bias_, channels_, 0.0f);
    if (!fbs_) std::fill_n(frame.gradients + weight_, channels_, 0.0f);
    for (size_t begin = 0; begin < batch_; begin += samples_) {
      const float* mean = frame.at<float>(slots.saved) + 2 * begin / samples_ * channels_;
      for (size_t n = begin; n < begin + samples_; ++n) {
        const size_t offset = n * size(), row = n * channels_;
        const GatedGradient<T> in{.y = at(y, offset),
                                  .x = x + offset,
                                  .more = at(more, offset),
                                  .even = at(even, row),
                                  .center = mean,
                                  .sum = sums + row,
                                  .product = products + row};
        gated_gradient_sums({pixels_, channels_}, in, dy + offset);
      }
      parameter_gradients(frame, begin, mean + channels_, sums, products);
      if (dx == nullptr) continue;
      input_tables(frame, mean);
      // Backwards: the last samples are still in the cache.
      for (size_t n = begin + samples_; n-- > begin;) {
        const float* g = at(frame.at<float>(slots.gate), n * channels_);
        for (size_t c = 0; c < channels_; ++c) a_[c] = g == nullptr ? scale_[c] : g[c] * scale_[c];
        gated_input_gradient({pixels_, channels_}, dy + n * size(), x + n * size(), a_.data(),
                             slope_.data(), shift_.data(), dx + n * size());
      }
    }
  }

  // Of a block: dγ, dβ, dg, and in first_/second_ the block's Σ g·P and Σ g·Q.
  void parameter_gradients(const Frame& frame, size_t begin, const float* inverse,
                           const float* sums, const float* products) {
    const float* gates = frame.at<float>(slots.gate);
    float* d_gates = frame.at<float>(slots.dgate);
    std::fill(first_.begin(), first_.end(), 0.0);
    std::fill(second_.begin(), second_.end(), 0.0);
    float* d_beta = frame.gradients + bias_;
    for (size_t n = begin; n < begin + samples_; ++n) {
      const float *p = sums + n * channels_, *q = products + n * channels_;
      const float* g = at(gates, n * channels_);
      for (size_t c = 0; c < channels_; ++c) {
        const double gate = g == nullptr ? 1.0 : static_cast<double>(g[c]);
        first_[c] += gate * static_cast<double>(p[c]);
        second_[c] += gate * static_cast<double>(q[c]);
      }
      if (g == nullptr) continue;
      float* dg = d_gates + n * channels_;
      for (size_t c = 0; c < channels_; ++c) {
        const float open = g[c] > 0 ? 1.0f : 0.0f;
        if (fbs_) {
          dg[c] = open * q[c] * inverse[c];
          d_beta[c] += open * p[c];
        } else {
          dg[c] = open * (frame.weights[weight_ + c] * inverse[c] * q[c] +
                          frame.weights[bias_ + c] * p[c]);
        }
      }
    }
    if (fbs_) return;
    for (size_t c = 0; c < channels_; ++c) {
      frame.gradients[weight_ + c] +=
          static_cast<float>(second_[c] * static_cast<double>(inverse[c]));
      d_beta[c] += static_cast<float>(first_[c]);
    }
  }

  // dx = g·scale·dz + slope·x + shift.
  void input_tables(const Frame& frame, const float* mean) {
    const float* inverse = mean + channels_;
    const size_t width = channels_ / groups_.groups;
    for (size_t begin = 0; begin < channels_; begin += width) {
      double sum = 0, product = 0;
      for (size_t c = begin; c < begin + width; ++c) {
        sum += gamma(frame, c) * first_[c];
        product += gamma(frame, c) * second_[c];
      }
      sum /= groups_.size();
      product /= groups_.size();
      for (size_t c = begin; c < begin + width; ++c) {
        const auto s = static_cast<double>(inverse[c]);
        scale_[c] = static_cast<float>(gamma(frame, c) * s);
        slope_[c] = static_cast<float>(-product * s * s * s);
        shift_[c] =
            static_cast<float>(-sum * s + product * s * s * s * static_cast<double>(mean[c]));
      }
    }
  }

  Type type_;
  bool training_, batch_norm_, relu_, fbs_;
  size_t channels_ = 0, batch_ = 0, pixels_ = 0;
  size_t samples_ = 0;  // of a block: what is normalized together
  NormGroups groups_{};
  size_t weight_ = 0, bias_ = 0, mean_ = 0, variance_ = 0, counter_ = 0;
  std::vector<double> first_, second_;
  std::vector<float> scale_, shift_, slope_, a_, b_;
};

}  // namespace

std::unique_ptr<Layer> make_gated_norm_layer(const LayerContext& context) {
  return std::make_unique<GatedNormLayer>(context);
}

}  // namespace espalier::nn

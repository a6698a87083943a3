#include <cmath>
#include <vector>

#include "espalier/nn/kernels.h"
#include "espalier/nn/layer.h"
#include "espalier/nn/norm_kernels.h"
#include "espalier/nn/norm_statistics.h"

// Batch normalization (Ioffe and Szegedy 2015) and group normalization (Wu and He 2018), with the
// residual's addition and the ReLU in the same passes: two over the values forward, two backward.
//
// Both normalize blocks of rows (pixels): one block with a group per channel for batch
// normalization, a block per sample for group normalization. With x̂ = (x − μ)/σ, y = γ·x̂ + β over m
// values,
//   dx = γ/σ·(dy − mean(dy) − x̂·mean(dy·x̂)) for one channel per group; for groups γ stands inside
//   the means.
namespace espalier::nn {
namespace {

class NormLayer final : public Layer {
 public:
  explicit NormLayer(const LayerContext& c)
      : type_(c.out),
        training_(c.training),
        batch_norm_(c.node.op == Op::kBatchNorm),
        relu_(c.node.relu) {
    const Node& n = c.node;
    channels_ = static_cast<size_t>(n.in.channels);
    const auto pixels = static_cast<size_t>(n.in.pixels()), batch = static_cast<size_t>(c.batch);
    blocks_ = batch_norm_ ? 1 : batch;
    block_ = {batch_norm_ ? batch * pixels : pixels, channels_};
    groups_ = batch_norm_ ? channels_ : static_cast<size_t>(n.groups);
    weight_ = tensor_offset(c.layout, n.weight);
    bias_ = tensor_offset(c.layout, n.bias);
    if (batch_norm_) {
      mean_ = tensor_offset(c.layout, n.mean);
      variance_ = tensor_offset(c.layout, n.variance);
      counter_ = tensor_offset(c.layout, n.counter);
    }
    first_.resize(channels_);
    second_.resize(channels_);
    scale_.resize(channels_);
    shift_.resize(channels_);
    slope_.resize(channels_);
  }

  // Each block's mean of every channel's group, then 1/σ likewise, then what x is multiplied with
  // and what is added.
  size_t saved_bytes() const override {
    return training_ ? 4 * blocks_ * channels_ * sizeof(float) : 0;
  }
  bool backward_in_place() const override { return true; }
  size_t owned_bytes() const override {
    return channels_ * (2 * sizeof(double) + 3 * sizeof(float));  // the five vectors below
  }

  void forward(const Frame& frame) override {
    by_type(type_, [&](auto value) { run_forward<decltype(value)>(frame); });
  }
  void repeat(const Frame& frame) override {
    const float* saved = frame.at<float>(slots.saved);
    by_type(type_, [&](auto value) {
      using T = decltype(value);
      for (size_t block = 0; block < blocks_; ++block) {
        affine(block_, frame.at<T>(slots.x) + block * block_values(), nullptr,
               saved + (2 * blocks_ + block) * channels_, saved + (3 * blocks_ + block) * channels_,
               relu_, frame.at<T>(slots.y) + block * block_values());
      }
    });
  }
  void backward(const Frame& frame) override {
    by_type(type_, [&](auto value) { run_backward<decltype(value)>(frame); });
  }

 private:
  size_t block_values() const { return block_.rows * channels_; }
  NormGroups shape() const { return {block_.rows, channels_, groups_}; }

  template <class T>
  void run_forward(const Frame& frame) {
    const float* gamma = frame.weights + weight_;
    const float* beta = frame.weights + bias_;
    float* saved = training_ ? frame.at<float>(slots.saved) : nullptr;
    const T* residual = frame.at<T>(slots.residual);
    for (size_t block = 0; block < blocks_; ++block) {
      const T* x = frame.at<T>(slots.x) + block * block_values();
      if (batch_norm_ && !training_) {
        for (size_t c = 0; c < channels_; ++c) {
          first_[c] = static_cast<double>(frame.weights[mean_ + c]);
          second_[c] = static_cast<double>(frame.weights[variance_ + c]);
        }
      } else {
        moments(block_, x, first_.data(), second_.data());
        join_groups(shape(), first_.data(), second_.data());
        if (batch_norm_) {
          update_statistics(shape(), first_.data(), second_.data(), frame.weights + mean_,
                            frame.weights + variance_, frame.weights + counter_);
        }
      }
      for (size_t c = 0; c < channels_; ++c) {
        const double inverse = 1 / std::sqrt(second_[c] + static_cast<double>(kNormEpsilon));
        scale_[c] = static_cast<float>(static_cast<double>(gamma[c]) * inverse);
        shift_[c] = static_cast<float>(static_cast<double>(beta[c]) -
                                       static_cast<double>(gamma[c]) * inverse * first_[c]);
        if (saved != nullptr) {
          saved[block * channels_ + c] = static_cast<float>(first_[c]);
          saved[(blocks_ + block) * channels_ + c] = static_cast<float>(inverse);
          saved[(2 * blocks_ + block) * channels_ + c] = scale_[c];
          saved[(3 * blocks_ + block) * channels_ + c] = shift_[c];
        }
      }
      affine(block_, x, residual == nullptr ? nullptr : residual + block * block_values(),
             scale_.data(), shift_.data(), relu_, frame.at<T>(slots.y) + block * block_values());
    }
  }

  template <class T>
  void run_backward(const Frame& frame) {
    const float* gamma = frame.weights + weight_;
    float* d_gamma = frame.gradients + weight_;
    float* d_beta = frame.gradients + bias_;
    const float* saved = frame.at<float>(slots.saved);
    const T* more = frame.at<T>(slots.more_dy);
    const size_t width = channels_ / groups_;
    for (size_t block = 0; block < blocks_; ++block) {
      const size_t at = block * block_values();
      const float* mean = saved + block * channels_;
      const float* inverse = saved + (blocks_ + block) * channels_;
      const T* x = frame.at<T>(slots.x) + at;
      T* dy = frame.at<T>(slots.dy) + at;
      norm_gradient_sums(block_, relu_ ? frame.at<T>(slots.y) + at : nullptr, x,
                         more == nullptr ? nullptr : more + at, mean, dy, first_.data(),
                         second_.data());
      for (size_t c = 0; c < channels_; ++c) {
        const auto gamma_part = static_cast<float>(second_[c] * static_cast<double>(inverse[c]));
        const auto beta_part = static_cast<float>(first_[c]);
        d_gamma[c] = block == 0 ? gamma_part : d_gamma[c] + gamma_part;
        d_beta[c] = block == 0 ? beta_part : d_beta[c] + beta_part;
      }
      if (slots.dx == kNoSlot) continue;
      for (size_t g = 0; g < groups_; ++g) {
        double sum = 0, product = 0;
        for (size_t c = g * width; c < (g + 1) * width; ++c) {
          sum += static_cast<double>(gamma[c]) * first_[c];
          product += static_cast<double>(gamma[c]) * second_[c];
        }
        sum /= shape().size();
        product /= shape().size();
        for (size_t c = g * width; c < (g + 1) * width; ++c) {
          const auto s = static_cast<double>(inverse[c]);
          scale_[c] = static_cast<float>(static_cast<double>(gamma[c]) * s);
          slope_[c] = static_cast<float>(-product * s * s * s);
          shift_[c] =
              static_cast<float>(-sum * s + product * s * s * s * static_cast<double>(mean[c]));
        }
      }
      norm_input_gradient(block_, dy, x, scale_.data(), slope_.data(), shift_.data(),
                          frame.at<T>(slots.dx) + at);
    }
  }

  Type type_;
  bool training_, batch_norm_, relu_;
  size_t channels_ = 0, blocks_ = 0, groups_ = 0;
  NormShape block_{};
  size_t weight_ = 0, bias_ = 0, mean_ = 0, variance_ = 0, counter_ = 0;
  std::vector<double> first_, second_;
  std::vector<float> scale_, shift_, slope_;
};

}  // namespace

std::unique_ptr<Layer> make_norm_layer(const LayerContext& context) {
  return std::make_unique<NormLayer>(context);
}

}  // namespace espalier::nn

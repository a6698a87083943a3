#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "espalier/nn/graph.h"
#include "espalier/nn/net.h"

namespace espalier::torch {

using namespace nn;

// A function of parameters and a batch in libtorch's terms. `tensors` are the layout's tensors,
// trainable ones requiring gradients; statistics are updated in place when `training`. Input:
// images and vectors as batch × channels × height × width or batch × features, sequences as batch ×
// length of int64.
class TorchModel {
 public:
  virtual ~TorchModel() = default;
  virtual const std::shared_ptr<const ParameterLayout>& layout() const = 0;
  virtual uint64_t macs_per_sample() const = 0;
  // Of a training pass: forward and the gradients that autograd computes.
  virtual uint64_t training_macs_per_sample() const = 0;
  virtual void initialize(Key key, ParameterSet& out) const = 0;
  // Shape of one sample as the model wants it.
  virtual std::vector<int64_t> sample_shape() const = 0;
  virtual int64_t num_logits() const = 0;
  // Net::feature_shape and Net::extractor_tensors.
  virtual std::vector<int64_t> feature_shape() const { return {}; }
  virtual std::vector<size_t> extractor_tensors() const { return {}; }
  // Net::fixed and Net::opaque.
  virtual const FixedTensors& fixed() const {
    static const FixedTensors none;
    return none;
  }
  virtual bool opaque() const { return false; }
  struct Output {
    at::Tensor logits;
    at::Tensor features;  // undefined without a feature shape
    // Added to the sum of the samples' losses in training; undefined: none.
    at::Tensor penalty = {};
  };
  // How the pass is made; key and step as in nn::Batch.
  struct Pass {
    bool training = false;
    Key key{0};
    uint64_t step = 0;
  };
  virtual Output forward(const std::vector<at::Tensor>& tensors, const at::Tensor& input,
                         const Pass& pass) = 0;
  // After a pass in training mode, when its gradient is taken: writes what the model has put in the
  // place of statistics and counters into `tensors`.
  virtual void collect(const std::vector<at::Tensor>& tensors) { static_cast<void>(tensors); }
};

// Runs a TorchModel under autograd.
std::unique_ptr<Net> make_torch_net(std::unique_ptr<TorchModel> model, const std::string& device);

}  // namespace espalier::torch

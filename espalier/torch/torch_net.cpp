#include "espalier/torch/torch_net.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "espalier/base/detailed_error.h"
#include "espalier/nn/gates.h"
#include "espalier/nn/loss.h"
#include "espalier/torch/torch_model.h"

namespace espalier::torch {
namespace {

// The interpreter begins with where it was; what went wrong comes last. CUDA ends with advice.
std::string last_line(std::string text) {
  if (text.starts_with("CUDA")) return text.substr(0, text.find('\n'));
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  const size_t line = text.rfind('\n');
  return line == std::string::npos ? text : text.substr(line + 1);
}

// The one place where libtorch's failures become ours.
template <class Body>
auto guarded(Body body) {
  try {
    return body();
  } catch (const c10::Error& error) {
    throw DetailedError(concat("[train/libtorch] ", last_line(error.what_without_backtrace())),
                        error.what());
  } catch (const std::runtime_error& error) {  // TorchScript's interpreter
    if (dynamic_cast<const Error*>(&error) != nullptr) throw;
    throw DetailedError(concat("[train/libtorch] ", last_line(error.what())), error.what());
  }
}

class TorchNet final : public Net {
 public:
  TorchNet(std::unique_ptr<TorchModel> model, const std::string& device, bool packed)
      : model_(std::move(model)), device_(device), packed_(packed) {}

  const std::shared_ptr<const ParameterLayout>& layout() const override { return model_->layout(); }
  uint64_t macs_per_sample() const override { return model_->macs_per_sample(); }
  void initialize(Key key, ParameterSet& out) const override { model_->initialize(key, out); }

  BatchSums train(const Batch& batch, std::span<float> weights, std::span<float> gradients,
                  const SgdUpdate*) override {
    return guarded([&] {
      const std::vector<at::Tensor> tensors = bind(weights.data(), true);
      const TorchModel::Output output = model_->forward(tensors, input(batch), pass(batch, true));
      const at::Tensor& logits = output.logits;
      if (!logits.requires_grad()) {
        fail("train/model",
             "the logits depend on no parameter that can be trained: the module computes them "
             "without gradients (torch.no_grad, detach), or every parameter that they depend on is "
             "frozen");
      }
      at::Tensor slope = at::empty({logits.size(0), logits.size(1)}, at::kFloat);
      BatchSums result = sums(batch, logits.detach(), slope.data_ptr<float>());
      result.macs = static_cast<uint64_t>(batch.size) * model_->training_macs_per_sample();
      ::torch::autograd::variable_list roots = {logits},
                                       slopes = {slope.to(logits.device(), logits.scalar_type())};
      if (output.penalty.defined()) {
        result.loss += output.penalty.item<double>();
        roots.push_back(output.penalty);
        slopes.push_back(at::full_like(output.penalty, 1.0 / static_cast<double>(batch.size)));
      }
      ::torch::autograd::variable_list leaves;
      for (const at::Tensor& tensor : tensors) {
        if (tensor.requires_grad()) leaves.push_back(tensor);
      }
      const auto found = ::torch::autograd::grad(roots, leaves, slopes, {}, false, true);
      model_->collect(tensors);
      size_t next = 0;
      untouched_.clear();
      std::vector<Answer> answers;
      for (size_t i = 0; i < tensors.size(); ++i) {
        if (tensors[i].requires_grad()) {
          const at::Tensor& gradient = found[next++];
          if (gradient.defined()) {
            answers.push_back({gradient, part(gradients, i)});
          } else {
            std::ranges::fill(part(gradients, i), 0.0f);
            untouched_.push_back(i);
          }
        } else {
          answers.push_back({tensors[i], part(weights, i)});
        }
      }
      copy_out(answers);
      return result;
    });
  }

  std::span<const float> forward_training(const Batch& batch, std::span<float> weights) override {
    return guarded([&] {
      const c10::NoGradGuard no_grad;
      const std::vector<at::Tensor> tensors = bind(weights.data(), false);
      const at::Tensor found = model_->forward(tensors, input(batch), pass(batch, true)).logits;
      logits_ = found.to(at::kCPU, at::kFloat).contiguous();
      model_->collect(tensors);
      std::vector<Answer> answers;
      for (size_t i = 0; i < tensors.size(); ++i) {
        if (!is_trainable(layout()->tensors()[i].role))
          answers.push_back({tensors[i], part(weights, i)});
      }
      copy_out(answers);
      return logits();
    });
  }

  // Autograd allocates activations as it goes and they are not counted: on the CPU nothing else is
  // left, elsewhere copies of weights, gradients and batch.
  uint64_t training_bytes(int64_t batch_size) const override {
    if (device_.is_cpu()) return 0;
    int64_t values = batch_size;
    for (const int64_t extent : model_->sample_shape()) values *= extent;
    return static_cast<uint64_t>(layout()->size() + layout()->num_trainable() + values) *
           sizeof(float);
  }

  BatchSums evaluate(const Batch& batch, std::span<const float> weights) override {
    return guarded([&] {
      const c10::NoGradGuard no_grad;
      const std::vector<at::Tensor> tensors = bind(const_cast<float*>(weights.data()), false);
      BatchSums found =
          sums(batch, model_->forward(tensors, input(batch), pass(batch, false)).logits, nullptr);
      found.macs = macs_per_sample() * static_cast<uint64_t>(batch.size);
      return found;
    });
  }

  std::span<const float> logits() const override {
    return {logits_.data_ptr<float>(), static_cast<size_t>(logits_.numel())};
  }
  size_t num_logits() const override { return static_cast<size_t>(model_->num_logits()); }
  std::span<const size_t> untouched() const override { return untouched_; }
  const FixedTensors& fixed() const override { return model_->fixed(); }
  bool opaque() const override { return model_->opaque(); }

  // The whole model runs, whatever is wanted.
  void predict(const Batch& batch, std::span<const float> weights, std::span<float> features,
               std::span<float> logits) override {
    guarded([&] {
      const c10::NoGradGuard no_grad;
      const std::vector<at::Tensor> tensors = bind(const_cast<float*>(weights.data()), false);
      const TorchModel::Output found = model_->forward(tensors, input(batch), pass(batch, false));
      const auto take = [](const at::Tensor& values, std::span<float> out, const char* what) {
        if (out.empty()) return;
        if (static_cast<size_t>(values.numel()) != out.size()) {
          fail("train/predict", "expected ", out.size(), " values of ", what, ", got ",
               shape_text(values.sizes().vec()));
        }
        copy_out(values, out);
      };
      take(found.features, features, "the feature map");
      take(found.logits, logits, "the logits");
    });
  }
  std::vector<int64_t> feature_shape() const override { return model_->feature_shape(); }
  std::vector<size_t> extractor_tensors() const override { return model_->extractor_tensors(); }

 private:
  // What a pass has computed, and where it belongs in the caller's memory.
  struct Answer {
    at::Tensor values;
    std::span<float> to;
  };

  std::span<float> part(std::span<float> flat, size_t tensor) const {
    const ParameterInfo& info = layout()->tensors()[tensor];
    return flat.subspan(static_cast<size_t>(info.offset), static_cast<size_t>(info.size));
  }

  // The flat weights as tensors: views on the CPU; elsewhere parts of one copy, since a
  // transfer for every tensor takes longer than the pass. Counters are copies, as int64.
  std::vector<at::Tensor> bind(float* weights, bool training) const {
    at::Tensor flat = at::from_blob(weights, {layout()->size()}, at::kFloat);
    if (packed_) flat = flat.to(device_, at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    std::vector<at::Tensor> tensors;
    for (const ParameterInfo& info : layout()->tensors()) {
      at::Tensor tensor = flat.narrow(0, info.offset, info.size).view(info.shape);
      // Kernels of a GPU want their operands aligned. variable_data: statistics are written in
      // place, which is no change of the weights beside them.
      tensor = packed_ ? tensor.clone() : tensor.variable_data();
      if (info.role == Role::kCounter) tensor = tensor.to(at::kLong);
      if (training && is_trainable(info.role)) tensor.requires_grad_(true);
      tensors.push_back(std::move(tensor));
    }
    return tensors;
  }

  at::Tensor device_copy(std::span<const int64_t> values) const {
    return at::from_blob(const_cast<int64_t*>(values.data()), {static_cast<int64_t>(values.size())},
                         at::kLong)
        .to(device_);
  }

  at::Tensor input(const Batch& batch) const {
    std::vector<int64_t> shape = model_->sample_shape();
    shape.insert(shape.begin(), batch.size);
    if (!batch.tokens.empty()) return device_copy(batch.tokens).view(shape);
    float* values = const_cast<float*>(batch.values.data());
    if (shape.size() != 4) return at::from_blob(values, shape, at::kFloat).to(device_);
    const at::Tensor pixels =
        at::from_blob(values, {shape[0], shape[2], shape[3], shape[1]}, at::kFloat);
    return pixels.to(device_).permute({0, 3, 1, 2});
  }

  static void copy_out(const at::Tensor& from, std::span<float> to) {
    const at::Tensor values = from.detach().to(at::kCPU, at::kFloat).contiguous();
    if (values.data_ptr<float>() == to.data()) return;  // a view of the buffer itself
    std::copy_n(values.data_ptr<float>(), to.size(), to.begin());
  }

  void copy_out(const std::vector<Answer>& answers) const {
    if (answers.empty()) return;
    if (!packed_) {
      for (const Answer& answer : answers) copy_out(answer.values, answer.to);
      return;
    }
    std::vector<at::Tensor> flat;
    for (const Answer& answer : answers)
      flat.push_back(answer.values.detach().to(at::kFloat).flatten());
    const at::Tensor all = at::cat(flat).to(at::kCPU);
    const float* next = all.data_ptr<float>();
    for (const Answer& answer : answers) {
      std::copy_n(next, answer.to.size(), answer.to.begin());
      next += answer.to.size();
    }
  }

  // The loss is ours on every device; autograd starts from its gradient.
  BatchSums sums(const Batch& batch, const at::Tensor& logits, float* gradient) {
    logits_ = logits.to(at::kCPU, at::kFloat).contiguous();
    const LossSums found = batch_loss(batch, logits_.data_ptr<float>(),
                                      static_cast<size_t>(logits_.size(1)), gradient);
    return {found.loss, found.correct};
  }

  static TorchModel::Pass pass(const Batch& batch, bool training) {
    return {training, batch.key, batch.step};
  }

  std::unique_ptr<TorchModel> model_;
  std::vector<size_t> untouched_;  // of the last train()
  at::Device device_;
  bool packed_;  // weights go to the device and answers come back in one piece each
  at::Tensor logits_;
};

// A Graph, node by node.
class TorchGraph final : public TorchModel {
 public:
  explicit TorchGraph(Graph graph) : graph_(std::move(graph)) {}
  const std::shared_ptr<const ParameterLayout>& layout() const override { return graph_.layout; }
  uint64_t macs_per_sample() const override { return graph_.macs; }
  uint64_t training_macs_per_sample() const override { return dense_training_macs(graph_); }
  void initialize(Key key, ParameterSet& out) const override {
    draw_parameters(graph_.init, key, out);
  }
  std::vector<int64_t> sample_shape() const override {
    if (graph_.tokens) return {graph_.input.width};
    return {graph_.input.channels, graph_.input.height, graph_.input.width};
  }

  int64_t num_logits() const override { return graph_.nodes.back().out.size(); }
  std::vector<int64_t> feature_shape() const override {
    if (graph_.features == kNone) return {};
    const Shape& shape = graph_.nodes[static_cast<size_t>(graph_.features)].out;
    return {shape.channels, shape.height, shape.width};
  }
  std::vector<size_t> extractor_tensors() const override { return nn::extractor_tensors(graph_); }

  Output forward(const std::vector<at::Tensor>& tensors, const at::Tensor& input,
                 const Pass& pass) override {
    const bool training = pass.training;
    std::vector<at::Tensor> values;
    at::Tensor penalty;
    const auto tensor = [&](int i) {
      return i == kNone ? at::Tensor() : tensors[static_cast<size_t>(i)];
    };
    for (const Node& n : graph_.nodes) {
      const at::Tensor x = n.input == kGraphInput ? input : values[static_cast<size_t>(n.input)];
      const at::Tensor w = tensor(n.weight);
      // A gate's shift counts only where the gate is open: apply() adds it.
      const bool late = n.gate != kNone && w.defined() == false;
      const at::Tensor b = late ? at::Tensor() : tensor(n.bias);
      at::Tensor y;
      switch (n.op) {
        case Op::kConv:
          y = at::conv2d(x, w, b, {n.stride, n.stride}, {n.padding, n.padding});
          break;
        case Op::kLinear:
          y = at::linear(x.flatten(1), w, b);
          break;
        case Op::kMaxPool:
          y = at::max_pool2d(x, {n.kernel, n.kernel});
          break;
        case Op::kBatchNorm: {
          y = at::batch_norm(x, w, b, tensor(n.mean), tensor(n.variance), training,
                             static_cast<double>(kNormMomentum), static_cast<double>(kNormEpsilon),
                             false);
          if (training) tensor(n.counter).add_(1);
          break;
        }
        case Op::kGroupNorm:
          y = at::group_norm(x, n.groups, w, b, static_cast<double>(kNormEpsilon));
          break;
        case Op::kGlobalAverage:
          y = x.mean({2, 3});
          break;
        case Op::kFlatten:
          y = x.flatten(1);
          break;
        case Op::kGate:
          y = gate(n, x, w, b, tensor(n.counter).item<int64_t>());
          if (training && n.penalty > 0) {
            const at::Tensor part = n.penalty * y.sum();
            penalty = penalty.defined() ? penalty + part : part;
          }
          break;
        case Op::kScale:
          y = x;
          break;
        case Op::kEmbedding:
          y = at::embedding(w, x);
          break;
        case Op::kLstm: {
          // Layer by layer, because sub-models may have layers of different widths.
          const at::Tensor zero = at::zeros({1, x.size(0), n.out.channels}, x.options());
          const std::vector<at::Tensor> all = {w, tensor(n.recurrent), b, tensor(n.recurrent_bias)};
          y = std::get<0>(at::lstm(x, {zero, zero}, all, /*has_biases=*/true, /*num_layers=*/1,
                                   /*dropout=*/0, training, /*bidirectional=*/false,
                                   /*batch_first=*/true));
          if (n.last) y = y.select(1, -1);
          break;
        }
      }
      if (n.gate != kNone) {
        y = apply(values[static_cast<size_t>(n.gate)], y, late ? tensor(n.bias) : at::Tensor());
      }
      if (n.residual != kNone) y = y + values[static_cast<size_t>(n.residual)];
      values.push_back(n.relu ? y.relu() : y);
    }
    return {values.back(),
            graph_.features == kNone ? at::Tensor() : values[static_cast<size_t>(graph_.features)],
            penalty};
  }

 private:
  // gates.h in libtorch's terms.
  static at::Tensor gate(const Node& n, const at::Tensor& x, const at::Tensor& w,
                         const at::Tensor& b, int64_t ratio_ppm) {
    at::Tensor s = x.mean({2, 3});
    if (n.sigmoid) s = s.sigmoid();
    const at::Tensor g = at::linear(s, w, b).relu();
    const int64_t kept = salient_channels(static_cast<float>(ratio_ppm), n.out.channels);
    if (kept == n.out.channels) return g;
    const at::Tensor order = std::get<1>(g.detach().sort(/*stable=*/true, 1, /*descending=*/true));
    return g * at::zeros_like(g).scatter(1, order.narrow(1, 0, kept), 1);
  }
  static at::Tensor apply(const at::Tensor& g, const at::Tensor& y, const at::Tensor& shift) {
    const at::Tensor scaled = y * g.unsqueeze(-1).unsqueeze(-1);
    if (!shift.defined()) return scaled;
    const at::Tensor open = g.detach().gt(0).to(shift.scalar_type());
    return scaled + (open * shift).unsqueeze(-1).unsqueeze(-1);
  }

  Graph graph_;
};

}  // namespace

std::unique_ptr<Net> make_torch_net(std::unique_ptr<TorchModel> model, const std::string& device) {
  return std::make_unique<TorchNet>(std::move(model), device, device != "cpu");
}

std::unique_ptr<Net> make_torch_graph_net(Graph graph, const std::string& device) {
  return make_torch_net(std::make_unique<TorchGraph>(std::move(graph)), device);
}

std::unique_ptr<Net> make_packed_torch_graph_net(Graph graph) {
  return std::make_unique<TorchNet>(std::make_unique<TorchGraph>(std::move(graph)), "cpu", true);
}

void check_device(const std::string& device) {
  if (device == "cpu") return;
  if (!at::hasCUDA()) {
    fail("train/device",
         "this libtorch was built without CUDA or finds no GPU; set train.device = \"cpu\"");
  }
}

}  // namespace espalier::torch

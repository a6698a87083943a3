#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <numeric>

#include "espalier/params/coordinate_map.h"
#include "espalier/script/script_module.h"
#include "espalier/script/script_net.h"
#include "espalier/torch/torch_model.h"
#include "espalier/torch/torch_net.h"

namespace espalier::script {
namespace {

// Multiply-accumulates of whatever libtorch runs while this lives: convolutions and matrix
// products.
class MacCounter {
 public:
  MacCounter() {
    at::RecordFunctionCallback callback(&MacCounter::begin, &MacCounter::end);
    callback.needsInputs(true).needsOutputs(true).scopes({at::RecordScope::FUNCTION});
    handle_ = at::addThreadLocalCallback(callback);
    total() = 0;
  }
  ~MacCounter() { at::removeCallback(handle_); }
  static uint64_t& total() {
    thread_local uint64_t macs = 0;
    return macs;
  }

 private:
  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction&) { return nullptr; }
  static void end(const at::RecordFunction& f, at::ObserverContext*) {
    const std::string name = f.name();
    const auto tensor = [](const c10::IValue& value) {
      return value.isTensor() ? value.toTensor() : at::Tensor();
    };
    if (f.inputs().size() < 2 || f.outputs().empty()) return;
    if (name == "aten::_convolution") {
      const at::Tensor weight = tensor(f.inputs()[1]), out = tensor(f.outputs()[0]);
      if (weight.defined() && out.defined())
        total() += static_cast<uint64_t>(out.numel() * (weight.numel() / weight.size(0)));
      return;
    }
    const size_t first = name == "aten::addmm" || name == "aten::baddbmm" ? 1 : 0;
    if (first == 0 && name != "aten::mm" && name != "aten::bmm") return;
    const at::Tensor a = tensor(f.inputs()[first]), b = tensor(f.inputs()[first + 1]);
    if (a.defined() && b.defined()) total() += static_cast<uint64_t>(a.numel() * b.size(-1));
  }

  at::CallbackHandle handle_;
};

// A user's TorchScript module, trained as it is, or with fewer units. One whose forward returns
// (features, logits) can be cut in two; one that returns logits alone may be the other half.
class ScriptModel final : public torch::TorchModel {
 public:
  using Output = torch::TorchModel::Output;
  ScriptModel(const ModelOptions& options, const DataSpec& data, std::span<const int64_t> units)
      : shape_(data.sample_shape), module_(options.file), initial_(module_.initial()) {
    layout_ = std::make_shared<const ParameterLayout>(module_.tensors());
    if (layout_->num_trainable() == 0) {
      fail("train/model", "the TorchScript module has no parameters to train; save it before ",
           "torch.jit.freeze (", options.file, ")");
    }
    probe(data);
    layout_ = find_script_units(module_, data).layout;
    if (!feature_shape_.empty()) extractor_ = find_script_extractor(module_, data);
    if (units.empty()) return;
    // The file's leading units.
    const auto full = layout_;
    layout_ = narrow_layout(*full, units);
    std::vector<std::vector<uint32_t>> kept;
    for (const int64_t count : units) {
      kept.emplace_back(static_cast<size_t>(count));
      std::iota(kept.back().begin(), kept.back().end(), 0U);
    }
    const CoordinateMap map(*full, *layout_, kept);
    initial_.resize(map.small_size());
    map.gather(module_.initial(), initial_);
    probe(data);
  }

  const std::shared_ptr<const ParameterLayout>& layout() const override { return layout_; }
  uint64_t macs_per_sample() const override { return macs_; }
  // The file's weights: a module cannot be asked how it would be drawn.
  void initialize(Key, ParameterSet& out) const override {
    std::ranges::copy(initial_, out.values().begin());
  }
  std::vector<int64_t> sample_shape() const override { return shape_; }

  int64_t num_logits() const override { return num_logits_; }
  std::vector<int64_t> feature_shape() const override { return feature_shape_; }
  std::vector<size_t> extractor_tensors() const override { return extractor_; }

  Output forward(const std::vector<at::Tensor>& tensors, const at::Tensor& input,
                 bool training) override {
    module_.set(tensors);
    // Modules are written for PyTorch's order in memory: a view() may need it.
    auto [logits, features] = module_.run_all(input.clone(at::MemoryFormat::Contiguous), training);
    return {std::move(logits), std::move(features)};
  }

 private:
  // One evaluation of one sample: does the module accept the data, and what does it cost?
  void probe(const DataSpec& data) {
    const at::NoGradGuard no_grad;
    std::vector<int64_t> shape = shape_;
    shape.insert(shape.begin(), 1);
    module_.set(copy_tensors(*layout_, initial_));
    const MacCounter counter;
    const auto [logits, features] = module_.run_all(
        at::zeros(shape, data.kind == data::Kind::kTokens ? at::kLong : at::kFloat), false);
    if (logits.dim() != 2 || logits.size(1) < data.num_classes) {
      fail("train/model", "expected the TorchScript module to return [batch, ", data.num_classes,
           "] logits, got ", shape_text(logits.sizes().vec()));
    }
    macs_ = MacCounter::total();
    num_logits_ = logits.size(1);
    if (!features.defined()) return;
    if (features.dim() < 2 || features.size(0) != 1) {
      fail("train/model", "expected the TorchScript module to return ([batch, ...] features, ",
           "logits), got features of shape ", shape_text(features.sizes().vec()));
    }
    feature_shape_.assign(features.sizes().begin() + 1, features.sizes().end());
  }

  std::vector<int64_t> shape_;
  ScriptModule module_;
  std::vector<float> initial_;
  std::shared_ptr<const ParameterLayout> layout_;
  uint64_t macs_ = 0;
  int64_t num_logits_ = 0;
  std::vector<int64_t> feature_shape_;
  std::vector<size_t> extractor_;
};

}  // namespace

std::unique_ptr<nn::Net> make_script_net(const ModelOptions& options, const DataSpec& data,
                                         const std::string& device,
                                         std::span<const int64_t> units) {
  return with_script_errors(options, [&] {
    return torch::make_torch_net(std::make_unique<ScriptModel>(options, data, units), device);
  });
}

}  // namespace espalier::script

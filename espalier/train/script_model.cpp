#include <ATen/record_function.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <filesystem>

#include "espalier/train/torch_model.h"
#include "espalier/train/torch_net.h"

namespace espalier::train {
namespace {

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// A module says nothing about its tensors' roles; names and shapes do.
Role role_of(const std::string& name, const at::Tensor& tensor, bool buffer) {
  if (buffer) return at::isFloatingType(tensor.scalar_type()) ? Role::kStatistic : Role::kCounter;
  if (ends_with(name, "bias") || name.find("bias_") != std::string::npos) return Role::kBias;
  if (name.find("embedding") != std::string::npos) return Role::kEmbedding;
  return tensor.dim() <= 1 ? Role::kNorm : Role::kWeight;
}

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

// A user's TorchScript module, trained as it is. Its named parameters and then its named buffers
// are the layout.
class ScriptModel final : public TorchModel {
 public:
  ScriptModel(const ModelOptions& options, const DataSpec& data) : shape_(data.sample_shape) {
    module_ = torch::jit::load(options.file, at::kCPU);
    std::vector<ParameterInfo> tensors;
    const auto add = [&](const std::string& name, const at::Tensor& tensor, bool buffer) {
      tensors.push_back(
          {.name = name, .shape = tensor.sizes().vec(), .role = role_of(name, tensor, buffer)});
      initial_.push_back(tensor.detach().to(at::kFloat).contiguous().clone());
      types_.push_back(tensor.scalar_type());
      const size_t dot = name.rfind('.');
      torch::jit::Module owner = module_;
      for (size_t begin = 0; dot != std::string::npos && begin < dot;) {
        const size_t end = std::min(name.find('.', begin), dot);
        owner = owner.attr(name.substr(begin, end - begin)).toModule();
        begin = end + 1;
      }
      owners_.emplace_back(owner, dot == std::string::npos ? name : name.substr(dot + 1));
    };
    for (const auto& item : module_.named_parameters()) add(item.name, item.value, false);
    for (const auto& item : module_.named_buffers()) add(item.name, item.value, true);
    layout_ = std::make_shared<const ParameterLayout>(std::move(tensors));
    probe(data);
  }

  const std::shared_ptr<const ParameterLayout>& layout() const override { return layout_; }
  uint64_t macs_per_sample() const override { return macs_; }
  // The file's weights: a module cannot be asked how it would be drawn.
  void initialize(Key, ParameterSet& out) const override {
    for (size_t i = 0; i < initial_.size(); ++i) {
      const auto values = out.values(layout_->tensors()[i]);
      std::copy_n(initial_[i].data_ptr<float>(), values.size(), values.begin());
    }
  }
  std::vector<int64_t> sample_shape() const override { return shape_; }

  at::Tensor forward(const std::vector<at::Tensor>& tensors, const at::Tensor& input,
                     bool training) override {
    for (size_t i = 0; i < tensors.size(); ++i) {
      const at::Tensor value =
          tensors[i].scalar_type() == types_[i] ? tensors[i] : tensors[i].to(types_[i]);
      owners_[i].first.setattr(owners_[i].second, value);
    }
    module_.train(training);
    return module_.forward({input}).toTensor();
  }

 private:
  // One evaluation of one sample: does the module accept the data, and what does it cost?
  void probe(const DataSpec& data) {
    const at::NoGradGuard no_grad;
    std::vector<int64_t> shape = shape_;
    shape.insert(shape.begin(), 1);
    module_.eval();
    const MacCounter counter;
    const at::Tensor logits =
        module_
            .forward({at::zeros(shape, data.kind == data::Kind::kTokens ? at::kLong : at::kFloat)})
            .toTensor();
    if (logits.dim() != 2 || logits.size(1) < data.num_classes) {
      fail("train/model", "expected the TorchScript module to return [batch, ", data.num_classes,
           "] logits, got ", shape_text(logits.sizes().vec()));
    }
    macs_ = MacCounter::total();
  }

  std::vector<int64_t> shape_;
  torch::jit::Module module_;
  std::vector<std::pair<torch::jit::Module, std::string>> owners_;
  std::vector<at::Tensor> initial_;
  std::vector<at::ScalarType> types_;
  std::shared_ptr<const ParameterLayout> layout_;
  uint64_t macs_ = 0;
};

}  // namespace

std::unique_ptr<Net> make_script_net(const ModelOptions& options, const DataSpec& data,
                                     const std::string& device, std::span<const int64_t> units) {
  if (!units.empty())
    fail("train/model", "the units of a TorchScript module are not known; train it whole");
  if (options.file.empty())
    fail("train/model", "model 'torchscript' needs model.file, the path of a scripted module");
  if (!std::filesystem::exists(options.file))
    fail("train/model", "model.file: no such file (", options.file, ")");
  try {
    return make_torch_net(std::make_unique<ScriptModel>(options, data), device);
  } catch (const Error&) {
    throw;
  } catch (const c10::Error& error) {
    fail("train/model", "cannot use the TorchScript module: ", error.what_without_backtrace(), " (",
         options.file, ")");
  } catch (const std::exception& error) {
    fail("train/model", "cannot use the TorchScript module: ", error.what(), " (", options.file,
         ")");
  }
}

}  // namespace espalier::train

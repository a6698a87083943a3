#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "espalier/params/coordinate_map.h"
#include "espalier/script/script_module.h"
#include "espalier/script/script_net.h"
#include "espalier/script/script_random.h"
#include "espalier/torch/torch_model.h"
#include "espalier/torch/torch_net.h"

namespace espalier::script {
namespace {

// Multiply-accumulates of whatever libtorch runs while this lives: convolutions and matrix
// products. training() adds what autograd will compute for them: as many again for each of the two
// factors that leads to something trainable.
class MacCounter {
 public:
  MacCounter() {
    at::RecordFunctionCallback callback(&MacCounter::begin, &MacCounter::end);
    callback.needsInputs(true).needsOutputs(true).scopes({at::RecordScope::FUNCTION});
    handle_ = at::addThreadLocalCallback(callback);
    total() = training() = 0;
  }
  ~MacCounter() { at::removeCallback(handle_); }
  static uint64_t& total() {
    thread_local uint64_t macs = 0;
    return macs;
  }
  static uint64_t& training() {
    thread_local uint64_t macs = 0;
    return macs;
  }

 private:
  // What an operator multiplies. Its inputs are only to be looked at when it begins: it may consume
  // them. A convolution's products are known with its output.
  struct Operation final : at::ObserverContext {
    uint64_t macs = 0, taps = 0;
    uint64_t passes = 1;  // forward, and for each factor that something trainable leads to
  };

  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& f) {
    const std::string name = f.name();
    const bool convolution = name == "aten::_convolution",
               added = name == "aten::addmm" || name == "aten::baddbmm";
    if (!convolution && !added && name != "aten::mm" && name != "aten::bmm") return nullptr;
    const size_t first = added ? 1 : 0;
    if (f.inputs().size() < first + 2 || !f.inputs()[first].isTensor() ||
        !f.inputs()[first + 1].isTensor()) {
      return nullptr;
    }
    const at::Tensor a = f.inputs()[first].toTensor(), b = f.inputs()[first + 1].toTensor();
    if (!a.defined() || !b.defined()) return nullptr;
    auto operation = std::make_unique<Operation>();
    operation->passes += (a.requires_grad() ? 1 : 0) + (b.requires_grad() ? 1 : 0);
    if (convolution) {
      operation->taps = static_cast<uint64_t>(b.numel() / b.size(0));
    } else {
      operation->macs = static_cast<uint64_t>(a.numel() * b.size(-1));
    }
    return operation;
  }
  static void end(const at::RecordFunction& f, at::ObserverContext* context) {
    if (context == nullptr) return;
    const auto& operation = *static_cast<const Operation*>(context);
    uint64_t macs = operation.macs;
    if (operation.taps > 0 && !f.outputs().empty() && f.outputs()[0].isTensor())
      macs = operation.taps * static_cast<uint64_t>(f.outputs()[0].toTensor().numel());
    total() += macs;
    training() += macs * operation.passes;
  }

  at::CallbackHandle handle_;
};

// A user's TorchScript module, trained as it is, or with fewer units. One whose forward returns
// (features, logits) can be cut in two; one that returns logits alone may be the other half.
class ScriptModel final : public torch::TorchModel {
 public:
  using Output = torch::TorchModel::Output;
  ScriptModel(const ModelOptions& options, const DataSpec& data, const at::Device& device,
              std::span<const int64_t> units)
      : file_(options.file), shape_(data.sample_shape), module_(options) {
    const RandomScope random(Key(0), true);
    initial_ = module_.initial();
    layout_ = std::make_shared<const ParameterLayout>(module_.tensors());
    if (layout_->num_trainable() == 0) {
      if (module_.num_frozen() > 0) {
        fail("train/model", "every parameter of the TorchScript module is frozen (requires_grad = ",
             "False); save it with those to train set to True (", file_, ")");
      }
      fail("train/model", "the TorchScript module has no parameters to train; save it before ",
           "torch.jit.freeze (", file_, ")");
    }
    probe(data);
    layout_ = find_script_units(module_, data).layout;
    initial_ = module_.initial();
    fixed_ = module_.fixed_tensors();
    if (!feature_shape_.empty()) extractor_ = find_script_extractor(module_, data);
    if (!units.empty()) narrow(data, units);
    if (!device.is_cpu()) module_.move_fixed(device);
  }

  const std::shared_ptr<const ParameterLayout>& layout() const override { return layout_; }
  uint64_t macs_per_sample() const override { return macs_; }
  uint64_t training_macs_per_sample() const override { return training_macs_; }
  // The file's weights: a module cannot be asked how it would be drawn.
  void initialize(Key, ParameterSet& out) const override {
    std::ranges::copy(initial_, out.values().begin());
  }
  std::vector<int64_t> sample_shape() const override { return shape_; }

  int64_t num_logits() const override { return num_logits_; }
  std::vector<int64_t> feature_shape() const override { return feature_shape_; }
  std::vector<size_t> extractor_tensors() const override { return extractor_; }
  const FixedTensors& fixed() const override { return fixed_; }
  bool opaque() const override { return true; }

  void collect(const std::vector<at::Tensor>& tensors) override { module_.collect(tensors); }
  Output forward(const std::vector<at::Tensor>& tensors, const at::Tensor& input,
                 const Pass& pass) override {
    module_.set(tensors, pass.step == 0);
    std::optional<RandomScope> random;
    if (input.is_cpu() || module_.random()) random.emplace(pass.key, input.is_cpu());
    const auto what = [&] {
      return concat(pass.training ? "training" : "evaluation", " on ",
                    batch_text(input.size(0), shape_));
    };
    try {
      // Modules are written for PyTorch's order in memory: a view() may need it.
      auto [logits, features] =
          module_.run_all(input.clone(at::MemoryFormat::Contiguous), pass.training);
      if (logits.dim() != 2 || logits.size(0) != input.size(0) || logits.size(1) != num_logits_) {
        fail("train/model", "expected [", input.size(0), ", ", num_logits_,
             "] logits of the module in ", what(), ", got ", shape_text(logits.sizes().vec()), " (",
             file_, ")");
      }
      return {std::move(logits), std::move(features)};
    } catch (const Error&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      const std::string words = own_words(error);
      throw DetailedError(concat("[train/model] the module fails in ", what(), words,
                                 words.empty() ? " (--verbose shows what libtorch says)" : ""),
                          detail_of(error));
    }
  }

 private:
  // The file's leading units.
  void narrow(const DataSpec& data, std::span<const int64_t> units) {
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

  // The module on one sample in evaluation mode; what it cannot do is said in our words.
  ScriptModule::Output try_sample(const DataSpec& data, int64_t token) {
    std::vector<int64_t> shape = shape_;
    shape.insert(shape.begin(), 1);
    const bool tokens = data.kind == data::Kind::kTokens;
    const at::Tensor input =
        tokens ? at::full(shape, token, at::kLong) : at::zeros(shape, at::kFloat);
    std::vector<at::Tensor> tensors = copy_tensors(*layout_, initial_);
    for (size_t i = 0; i < tensors.size() && at::GradMode::is_enabled(); ++i)
      tensors[i].requires_grad_(is_trainable(layout_->tensors()[i].role));
    module_.set(tensors);
    try {
      return module_.run_all(input, false);
    } catch (const Error&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      const std::string detail = detail_of(error), type = module_.other_type();
      if (!type.empty()) {
        throw DetailedError(
            concat("[train/model] the module does not run in float32, which everything is trained "
                   "in: ",
                   type,
                   "; save it with torch.jit.script(model.float()).save(\"model.pt\") "
                   "(",
                   file_, ")"),
            detail);
      }
      if (tokens && token > 0) {
        throw DetailedError(
            concat("[train/model] the module runs on token 0, but not on token ", token,
                   ", the data's last of ", data.vocabulary, own_words(error),
                   "; give its embedding at least ", data.vocabulary, " rows (", file_, ")"),
            detail);
      }
      const ParameterInfo& first = layout_->tensors().front();
      throw DetailedError(
          concat("[train/model] the module does not run on ",
                 tokens ? "token ids" : "float32 samples", " of shape ", shape_text(shape_),
                 own_words(error), " (its first parameter '", first.name, "' is ",
                 shape_text(first.shape),
                 "); change the module or the data so that they fit; --verbose shows what libtorch "
                 "says (",
                 file_, ")"),
          detail);
    }
  }

  // What a training pass of one sample will multiply; while a MacCounter lives. What cannot be run
  // with gradients at all is found when it is trained.
  void count_training(const DataSpec& data) {
    training_macs_ = 3 * macs_;
    const at::AutoGradMode with_gradients(true);
    MacCounter::training() = 0;
    try {
      try_sample(data, 0);
      training_macs_ = MacCounter::training();
    } catch (const Error&) {
    }
  }

  // One evaluation of one sample: does the module accept the data, and what does it cost?
  void probe(const DataSpec& data) {
    const c10::NoGradGuard no_grad;
    if (data.kind == data::Kind::kTokens && data.vocabulary > 1) {
      try_sample(data, 0);
      try_sample(data, data.vocabulary - 1);
    }
    const MacCounter counter;
    const auto [logits, features] = try_sample(data, 0);
    if (logits.dim() != 2 || logits.size(0) != 1 || logits.size(1) < data.num_classes) {
      const bool few = logits.dim() == 2 && logits.size(0) == 1;
      fail("train/model", "expected the TorchScript module to return [batch, ", data.num_classes,
           "] logits, got ", shape_text(logits.sizes().vec()), " for one sample",
           few ? concat("; give its last layer at least ", data.num_classes,
                        " outputs, one for each class of the data")
               : std::string("; return one row of logits for every sample"),
           " (", file_, ")");
    }
    macs_ = MacCounter::total();
    count_training(data);
    num_logits_ = logits.size(1);
    if (!features.defined()) return;
    if (features.dim() < 2 || features.size(0) != 1) {
      fail("train/model", "the TorchScript module returns two tensors, which are ([batch, ...] ",
           "features, logits), but the first is ", shape_text(features.sizes().vec()),
           " for one sample; if it is something else, name the logits: model.output = \"1\" (",
           file_, ")");
    }
    feature_shape_.assign(features.sizes().begin() + 1, features.sizes().end());
  }

  std::string file_;
  std::vector<int64_t> shape_;
  ScriptModule module_;
  std::vector<float> initial_;
  std::shared_ptr<const ParameterLayout> layout_;
  FixedTensors fixed_;
  uint64_t macs_ = 0, training_macs_ = 0;
  int64_t num_logits_ = 0;
  std::vector<int64_t> feature_shape_;
  std::vector<size_t> extractor_;
};

}  // namespace

std::unique_ptr<nn::Net> make_script_net(const ModelOptions& options, const DataSpec& data,
                                         const std::string& device,
                                         std::span<const int64_t> units) {
  return with_script_errors(options, [&] {
    return torch::make_torch_net(
        std::make_unique<ScriptModel>(options, data, at::Device(device), units), device);
  });
}

}  // namespace espalier::script

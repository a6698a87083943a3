#include "espalier/script/script_units.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "espalier/params/coordinate_map.h"
#include "espalier/script/script_module.h"
#include "espalier/script/script_random.h"
#include "espalier/script/script_walk.h"

namespace espalier::script {
namespace {

constexpr int64_t kBatch = 3;
// A check compares sums that differ in their order only. Logits are compared with how much they
// vary from sample to sample, and trusted no further than float32 resolves them.
constexpr double kTolerance = 1e-4, kResolution = 1e-6;
// Two draws of units must confirm a group; one whose logits are silent confirms nothing.
constexpr uint64_t kDraws = 8;

// The last line of what TorchScript says is its cause.
std::string cause(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  std::string text = torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  const size_t line = text.rfind('\n');
  return line == std::string::npos ? text : text.substr(line + 1);
}

// The groups as the operators say.
class Derivation {
 public:
  explicit Derivation(const ScriptModule& module)
      : tensors_(module.tensors()), fixed_(module.fixed()) {
    for (const ParameterInfo& tensor : tensors_) {
      axes_.emplace_back();
      for (const int64_t extent : tensor.shape) axes_.back().push_back(labels_.add_axis(extent));
    }
    // Everybody has these whole, so that what they are coupled with stays whole, too.
    for (const ParameterInfo& tensor : fixed_) {
      fixed_axes_.emplace_back();
      for (const int64_t extent : tensor.shape) {
        fixed_axes_.back().push_back(labels_.add_axis(extent));
        labels_.refuse(fixed_axes_.back().back(), concat("'", tensor.name, "' is frozen"));
      }
    }
  }

  void follow(const ScriptModule& original, const at::Tensor& input, bool training) {
    ScriptModule copy = original.copy();  // a module may keep things in its attributes
    const std::vector<at::Tensor> values = copy_tensors(ParameterLayout(tensors_), copy.initial());
    copy.set(values);
    ::torch::jit::Module module = copy.module();
    module.train(training);
    ScriptWalk walk(labels_);
    // Converting to the file's type may have made other tensors than `values`.
    for (size_t i = 0; i < axes_.size(); ++i) walk.bind(copy.current(i), axes_[i]);
    for (size_t i = 0; i < fixed_axes_.size(); ++i)
      walk.bind(copy.current_fixed(i), fixed_axes_[i]);
    walk.run(module, input);
  }

  std::vector<UnitGroup> groups() { return labels_.groups(axes_, tensors_); }
  const std::vector<ParameterInfo>& tensors() const { return tensors_; }
  std::vector<std::string> notes() const {
    std::vector<std::string> notes;
    // Frozen layers, too: what reads them stays whole because of them.
    std::vector<std::vector<ScriptLabels::Axis>> axes = axes_;
    std::vector<ParameterInfo> tensors = tensors_;
    axes.insert(axes.end(), fixed_axes_.begin(), fixed_axes_.end());
    tensors.insert(tensors.end(), fixed_.begin(), fixed_.end());
    for (const auto& [reason, layers] : labels_.refusals(axes, tensors)) {
      std::string names;
      for (const std::string& layer : layers) names += (names.empty() ? "" : ", ") + layer;
      notes.push_back(concat(names, ": all units stay; ", reason));
    }
    return notes;
  }

 private:
  std::vector<ParameterInfo> tensors_, fixed_;
  ScriptLabels labels_;
  std::vector<std::vector<ScriptLabels::Axis>> axes_, fixed_axes_;
};

// Drops units and looks whether the module behaves as the derivation says.
class Check {
 public:
  Check(ScriptModule& module, const DataSpec& data, const ParameterLayout& layout, Key key)
      : module_(module), layout_(layout), key_(key), input_(random_samples(data, key.child(0))) {
    draw_weights(key.child(1));
  }

  // nullopt when units of all `chosen` groups can be dropped together, else why not.
  std::optional<std::string> failure(const std::vector<bool>& chosen) {
    int conclusive = 0;
    for (uint64_t draw = 0; draw < kDraws && conclusive < 2; ++draw) {
      if (auto why = failure(choose(chosen, key_.child(2 + draw)), conclusive)) return why;
    }
    if (conclusive == 0) return "the check saw logits that do not depend on the samples";
    return std::nullopt;
  }

 private:
  // The file's weights, moved so that nothing is zero: a layer that starts at zero would hide what
  // comes before it.
  void draw_weights(Key key) {
    weights_ = module_.initial();
    Stream stream(key);
    for (const ParameterInfo& tensor : layout_.tensors()) {
      if (tensor.role == Role::kCounter) continue;
      const int64_t rows = tensor.shape.empty() ? 1 : std::max<int64_t>(tensor.shape[0], 1);
      const bool weight = tensor.role == Role::kWeight;
      const bool variance = tensor.name.ends_with("var");
      const double deviation =
          weight ? std::sqrt(2.0 * static_cast<double>(rows) / static_cast<double>(tensor.size + 1))
                 : 0.2;
      for (int64_t i = 0; i < tensor.size; ++i) {
        float& value = weights_[static_cast<size_t>(tensor.offset + i)];
        value += static_cast<float>(deviation * stream.normal());
        if (variance) value = std::abs(value) + 0.1f;
      }
    }
  }

  std::vector<std::vector<uint32_t>> choose(const std::vector<bool>& chosen, Key key) const {
    std::vector<std::vector<uint32_t>> kept;
    for (size_t g = 0; g < chosen.size(); ++g) {
      const auto size = static_cast<uint64_t>(layout_.groups()[g].size);
      std::vector<uint32_t> units(size);
      std::iota(units.begin(), units.end(), 0U);
      if (chosen[g] && size > 1) {
        Stream stream(key.child(g));
        const uint64_t count = size / 2 + stream.below(size - size / 2);
        const auto sample = sample_without_replacement(key.child(g).child(0), size, count);
        units.assign(sample.begin(), sample.end());
        std::ranges::sort(units);
      }
      kept.push_back(std::move(units));
    }
    return kept;
  }

  std::optional<std::string> failure(const std::vector<std::vector<uint32_t>>& kept,
                                     int& conclusive) {
    std::vector<int64_t> sizes;
    for (const auto& units : kept) sizes.push_back(static_cast<int64_t>(units.size()));
    const auto small = narrow_layout(layout_, sizes);
    const CoordinateMap map(layout_, *small, kept);
    std::vector<float> narrowed(map.small_size()), masked(map.full_size(), 0.0f);
    map.gather(weights_, narrowed);
    map.scatter(narrowed, masked);
    for (const ParameterInfo& tensor : layout_.tensors()) {
      // A variance of zero is no variance.
      if (is_trainable(tensor.role)) continue;
      std::copy_n(weights_.begin() + tensor.offset, tensor.size, masked.begin() + tensor.offset);
    }
    const c10::NoGradGuard no_grad;
    const ::torch::jit::GraphOptimizerEnabledGuard plain(false);  // each shape is seen once
    module_.set(copy_tensors(layout_, masked));
    const ScriptModule::Output whole = module_.run_all(input_, false);
    const at::Tensor expected = whole.logits.to(at::kDouble);
    at::Tensor got;
    try {
      module_.set(copy_tensors(*small, narrowed));
      const ScriptModule::Output found = module_.run_all(input_, false);
      if (found.features.defined() && found.features.sizes() != whole.features.sizes())
        return "the feature map changes its shape with fewer of them";
      got = found.logits.to(at::kDouble);
      module_.set(copy_tensors(*small, narrowed));
      module_.run(input_, true);
    } catch (const std::exception& error) {
      return concat("the module does not run with fewer of them: ", cause(error));
    }
    if (got.sizes() != expected.sizes()) return "the logits change their shape with fewer of them";
    const double spread = (expected - expected[0]).abs().max().item<double>();
    const double largest = expected.abs().max().item<double>();
    const double error = (got - expected).abs().max().item<double>();
    // Also false for what is not a number.
    // Negated, for what is not a number.
    if (!(error <= std::max(kTolerance * spread, kResolution * largest)))
      return "dropped ones still change the logits";
    if (spread > 100 * kResolution * largest) ++conclusive;
    return std::nullopt;
  }

  ScriptModule& module_;
  const ParameterLayout& layout_;
  Key key_;
  at::Tensor input_;
  std::vector<float> weights_;
};

// Accepts the groups begin..end that can be dropped together with those accepted before; halves the
// range where some cannot.
void accept(Check& check, const ParameterLayout& layout, size_t begin, size_t end,
            std::vector<bool>& accepted, std::vector<std::string>& notes) {
  if (begin == end) return;
  std::vector<bool> chosen = accepted;
  std::fill(chosen.begin() + static_cast<std::ptrdiff_t>(begin),
            chosen.begin() + static_cast<std::ptrdiff_t>(end), true);
  const std::optional<std::string> why = check.failure(chosen);
  if (!why) {
    accepted = chosen;
  } else if (end - begin == 1) {
    notes.push_back(concat(layout.groups()[begin].name, ": all units stay; ", *why));
  } else {
    const size_t middle = begin + (end - begin) / 2;
    accept(check, layout, begin, middle, accepted, notes);
    accept(check, layout, middle, end, accepted, notes);
  }
}

std::shared_ptr<const ParameterLayout> keep_groups(const ParameterLayout& layout,
                                                   const std::vector<bool>& accepted) {
  std::vector<UnitGroup> groups;
  std::vector<int> index;
  for (size_t g = 0; g < accepted.size(); ++g) {
    index.push_back(static_cast<int>(groups.size()));
    if (accepted[g]) groups.push_back(layout.groups()[g]);
  }
  std::vector<ParameterInfo> tensors = layout.tensors();
  for (ParameterInfo& tensor : tensors) {
    std::erase_if(tensor.units, [&](const AxisUnits& part) {
      return !accepted[static_cast<size_t>(part.group)];
    });
    for (AxisUnits& part : tensor.units) part.group = index[static_cast<size_t>(part.group)];
  }
  return std::make_shared<const ParameterLayout>(std::move(tensors), std::move(groups));
}

}  // namespace

at::Tensor random_samples(const DataSpec& data, Key key) {
  std::vector<int64_t> shape = data.sample_shape;
  shape.insert(shape.begin(), kBatch);
  const bool tokens = data.kind == data::Kind::kTokens;
  at::Tensor input = at::zeros(shape, tokens ? at::kLong : at::kFloat);
  Stream stream(key);
  for (int64_t i = 0; i < input.numel(); ++i) {
    if (tokens) {
      input.data_ptr<int64_t>()[i] =
          data.vocabulary < 1
              ? 0
              : static_cast<int64_t>(stream.below(static_cast<uint64_t>(data.vocabulary)));
    } else {
      input.data_ptr<float>()[i] = static_cast<float>(stream.normal());
    }
  }
  return input;
}

ScriptUnits find_script_units(ScriptModule& module, const DataSpec& data) {
  const c10::NoGradGuard no_grad;
  const Key key(0x756e697473);  // any; the same module has the same groups everywhere
  Derivation derivation(module);
  try {
    for (const bool training : {false, true})
      derivation.follow(module, random_samples(data, key), training);
  } catch (const std::exception& error) {
    return {module.fix_buffers(ParameterLayout(module.tensors())),
            {concat("the whole model: all units stay; ", cause(error))}};
  }
  std::vector<UnitGroup> groups = derivation.groups();
  ScriptUnits out;
  out.notes = derivation.notes();
  const ParameterLayout layout(derivation.tensors(), groups);
  std::vector<bool> accepted(groups.size(), false);
  Check check(module, data, layout, key);
  accept(check, layout, 0, groups.size(), accepted, out.notes);
  out.layout = module.fix_buffers(*keep_groups(layout, accepted));
  return out;
}

std::vector<std::string> script_unit_notes(const ModelOptions& options, const DataSpec& data) {
  if (options.name != "torchscript") return {};
  return with_script_errors(options, [&] {
    ScriptModule module(options);
    const RandomScope random(Key(0), true);
    return find_script_units(module, data).notes;
  });
}

}  // namespace espalier::script

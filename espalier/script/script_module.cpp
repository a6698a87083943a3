#include "espalier/script/script_module.h"

#include <ATen/ATen.h>
#include <torch/csrc/api/include/torch/version.h>
#include <torch/csrc/jit/runtime/jit_exception.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <unordered_map>

#include "espalier/script/script_analysis.h"

namespace espalier::script {
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

// Dense, of real numbers.
bool is_plain(const at::Tensor& tensor) {
  return tensor.layout() == at::kStrided && !tensor.is_complex() && !tensor.is_quantized();
}

void append(const at::Tensor& tensor, std::vector<float>& out) {
  const at::Tensor values = tensor.detach().to(at::kFloat).contiguous();
  out.insert(out.end(), values.data_ptr<float>(), values.data_ptr<float>() + values.numel());
}

::torch::jit::Module load(const std::string& file) {
  try {
    return ::torch::jit::load(file, at::kCPU);
  } catch (const std::exception& error) {
    const std::string text = detail_of(error);
    const bool newer = text.find("ersion") != std::string::npos ||
                       text.find("Unknown builtin") != std::string::npos ||
                       text.find("Schema not found") != std::string::npos;
    throw DetailedError(
        concat("[train/model] libtorch ", TORCH_VERSION, " cannot read model.file, ",
               newer ? "which was saved by a newer PyTorch or uses operators of an extension; save "
                       "it with a PyTorch of this version or older"
                     : "which is damaged or was saved by a newer PyTorch; save it again with "
                       "torch.jit.script(model).save(\"model.pt\")",
               " (", file, ")"),
        text);
  }
}

// Every entry of a tuple, list or dictionary, by the name that model.output gives it.
std::vector<std::pair<std::string, c10::IValue>> parts_of(const c10::IValue& output) {
  std::vector<std::pair<std::string, c10::IValue>> parts;
  if (output.isTuple()) {
    const auto& tuple = output.toTupleRef();
    const auto& schema = tuple.type()->schema();
    for (size_t i = 0; i < tuple.elements().size(); ++i) {
      const bool named = schema != nullptr && i < schema->arguments().size();
      parts.emplace_back(named ? schema->arguments()[i].name() : std::to_string(i),
                         tuple.elements()[i]);
    }
  } else if (output.isList()) {
    const auto list = output.toList();
    for (size_t i = 0; i < list.size(); ++i) parts.emplace_back(std::to_string(i), list.get(i));
  } else if (output.isGenericDict()) {
    for (const auto& item : output.toGenericDict()) {
      parts.emplace_back(item.key().isString() ? item.key().toStringRef()
                         : item.key().isInt()  ? std::to_string(item.key().toInt())
                                               : std::string("?"),
                         item.value());
    }
  }
  return parts;
}

// "\"0\" ([16, 3]), \"1\" ([16, 16])": what could be the logits.
std::string choices(const std::vector<std::pair<std::string, c10::IValue>>& parts) {
  std::string text;
  for (const auto& [name, value] : parts) {
    if (!value.isTensor()) continue;
    text += concat(text.empty() ? "" : ", ", "\"", name, "\" (",
                   shape_text(value.toTensor().sizes().vec()), ")");
  }
  return text.empty() ? "none of its parts is a tensor" : text;
}

}  // namespace

ScriptModule::ScriptModule(const ModelOptions& options)
    : module_(load(options.file)), output_(options.output) {
  const auto forward = module_.find_method("forward");
  if (!forward) {
    fail("train/model", "the TorchScript module has no forward; script a module that has one (",
         options.file, ")");
  }
  const auto& arguments = forward->function().getSchema().arguments();
  size_t needed = 0;
  std::string names;
  for (size_t i = 1; i < arguments.size(); ++i) {
    needed += arguments[i].default_value() ? 0 : 1;
    names += (i > 1 ? ", " : "") + arguments[i].name();
  }
  if (arguments.size() < 2 || needed > 1) {
    fail("train/model", "expected the module's forward to take the samples alone, got forward(",
         names, "); give the other arguments defaults or wrap the module (", options.file, ")");
  }
  find_tensors();
}

ScriptModule ScriptModule::copy() const {
  ScriptModule out = *this;
  out.module_ = module_.deepcopy();
  out.resolve();
  return out;
}

ScriptModule::Place ScriptModule::place(const std::string& name) const {
  const size_t dot = name.rfind('.');
  ::torch::jit::Module owner = module_;
  for (size_t begin = 0; dot != std::string::npos && begin < dot;) {
    const size_t end = std::min(name.find('.', begin), dot);
    owner = owner.attr(name.substr(begin, end - begin)).toModule();
    begin = end + 1;
  }
  return {owner, dot == std::string::npos ? name : name.substr(dot + 1)};
}

void ScriptModule::find_tensors() {
  const ScriptAnalysis analysis = analyse(module_);
  random_ = analysis.random;
  std::unordered_map<const at::TensorImpl*, size_t> index;
  const auto add = [&](const std::string& name, const at::Tensor& tensor, bool buffer) {
    const auto [known, fresh] = index.try_emplace(tensor.unsafeGetTensorImpl(), entries_.size());
    if (!fresh) {
      Entry& entry = entries_[known->second];
      entry.names.push_back(name);
      if (entry.kind == Kind::kConstant && analysis.writes(name)) entry.kind = Kind::kWritten;
      return;
    }
    Kind kind = tensor.requires_grad() ? Kind::kTrained : Kind::kFrozen;
    // A teacher that follows its student is no parameter of a step and yet no constant.
    if (kind == Kind::kFrozen && analysis.written.contains(name)) kind = Kind::kWritten;
    if (buffer) kind = analysis.writes(name) ? Kind::kWritten : Kind::kConstant;
    const bool stepped = kind == Kind::kTrained || kind == Kind::kFrozen;
    if (!is_plain(tensor) && (kind == Kind::kTrained || kind == Kind::kWritten)) {
      fail("train/model", "'", name, "' is ", c10::toString(tensor.scalar_type()),
           ", sparse or quantized; only dense tensors of real numbers can be trained");
    }
    entries_.push_back({.info = {.name = name,
                                 .shape = tensor.sizes().vec(),
                                 .role = role_of(name, tensor, !stepped)},
                        .kind = kind,
                        .type = tensor.scalar_type(),
                        .original = tensor.detach(),
                        .names = {name}});
  };
  for (const auto& item : module_.named_parameters()) add(item.name, item.value, false);
  for (const auto& item : module_.named_buffers()) add(item.name, item.value, true);
  // Attributes that are neither, but may be another name of one.
  for (const auto& item : module_.named_attributes()) {
    if (item.value.isModule() || item.name == "training" || ends_with(item.name, ".training"))
      continue;
    if (item.value.isTensor() && item.value.toTensor().defined()) {
      const auto known = index.find(item.value.toTensor().unsafeGetTensorImpl());
      if (known != index.end()) {
        auto& names = entries_[known->second].names;
        if (std::ranges::find(names, item.name) == names.end()) names.push_back(item.name);
        continue;
      }
    }
    // A recurrent layer's list of its parameters follows them (resolve).
    if (item.value.isTensorList() && analysis.anything_written &&
        !analysis.written.contains(item.name))
      continue;
    if (analysis.writes(item.name)) state_names_.push_back(item.name);
  }
  const auto frozen = std::ranges::stable_partition(entries_, [](const Entry& entry) {
    return entry.kind != Kind::kFrozen && is_plain(entry.original);
  });
  fixed_.assign(frozen.begin(), frozen.end());
  entries_.erase(frozen.begin(), entries_.end());
  resolve();
  describe();
}

// In the module as it is now, whose attributes have the file's values.
void ScriptModule::resolve() {
  std::unordered_map<const at::TensorImpl*, Entry*> index;
  for (std::vector<Entry>* entries : {&entries_, &fixed_}) {
    for (Entry& entry : *entries) {
      entry.places.clear();
      entry.listed.clear();
      for (const std::string& name : entry.names) entry.places.push_back(place(name));
      index[value_of(entry).unsafeGetTensorImpl()] = &entry;
    }
  }
  // A recurrent layer of PyTorch keeps its parameters a second time, in a list.
  for (const auto& submodule : module_.modules()) {
    for (const c10::IValue& attribute : submodule._ivalue()->slots()) {
      if (!attribute.isTensorList()) continue;
      const c10::List<at::Tensor> list = attribute.toTensorList();
      for (size_t i = 0; i < list.size(); ++i) {
        const auto found = index.find(list.get(i).unsafeGetTensorImpl());
        if (found != index.end()) found->second->listed.emplace_back(list, i);
      }
    }
  }
  states_.clear();
  for (const std::string& name : state_names_) {
    Place where = place(name);
    const c10::IValue value = where.owner.attr(where.name).deepcopy();
    states_.push_back({std::move(where), value});
  }
}

void ScriptModule::describe() {
  tensors_.clear();
  fixed_infos_.clear();
  initial_.clear();
  for (const Entry& entry : entries_) {
    tensors_.push_back(entry.info);
    append(entry.original, initial_);
  }
  for (const Entry& entry : fixed_) fixed_infos_.push_back(entry.info);
}

std::shared_ptr<const ParameterLayout> ScriptModule::fix_buffers(const ParameterLayout& layout) {
  std::vector<Entry> kept;
  std::vector<ParameterInfo> infos;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const ParameterInfo& info = layout.tensors()[i];
    if (entries_[i].kind == Kind::kConstant && info.units.empty()) {
      Entry entry = std::move(entries_[i]);
      for (Place& place : entry.places) place.owner.setattr(place.name, entry.original);
      for (auto& [list, index] : entry.listed) list.set(index, entry.original);
      fixed_.push_back(std::move(entry));
    } else {
      kept.push_back(std::move(entries_[i]));
      infos.push_back(info);
    }
  }
  entries_ = std::move(kept);
  describe();
  return std::make_shared<const ParameterLayout>(std::move(infos), layout.groups());
}

FixedTensors ScriptModule::fixed_tensors() const {
  FixedTensors out;
  std::vector<ParameterInfo> infos;
  std::vector<float> values;
  for (size_t i = 0; i < fixed_.size(); ++i) {
    // What a float32 cannot hold stays in the module's file alone.
    const at::Tensor& value = fixed_[i].original;
    if (!is_plain(value)) continue;
    const at::Tensor round_trip = value.to(at::kFloat).to(value.scalar_type());
    const bool floating = at::isFloatingType(value.scalar_type());
    if (!at::equal(floating ? round_trip.nan_to_num(0) : round_trip,
                   floating ? value.nan_to_num(0) : value))
      continue;
    ParameterInfo info = fixed_[i].info;
    if (!at::isFloatingType(fixed_[i].type)) info.role = Role::kCounter;
    infos.push_back(info);
    append(value, values);
  }
  if (!infos.empty()) {
    out.values = ParameterSet(std::make_shared<const ParameterLayout>(std::move(infos)));
    std::ranges::copy(values, out.values.values().begin());
  }
  for (const std::vector<Entry>* entries : {&entries_, &fixed_}) {
    for (const Entry& entry : *entries) {
      const bool known =
          entries == &entries_ ||
          (!out.values.empty() && out.values.layout().find(entry.info.name) != nullptr);
      for (size_t i = 1; known && i < entry.names.size(); ++i)
        out.other_names[entry.names[i]] = entry.info.name;
    }
  }
  return out;
}

size_t ScriptModule::num_frozen() const {
  return static_cast<size_t>(std::ranges::count(fixed_, Kind::kFrozen, &Entry::kind));
}

at::Tensor ScriptModule::value_of(const Entry& entry) {
  const Place& place = entry.places.front();
  return place.owner.attr(place.name).toTensor();
}

std::string ScriptModule::other_type() const {
  for (const std::vector<Entry>* entries : {&entries_, &fixed_}) {
    for (const Entry& entry : *entries) {
      if (at::isFloatingType(entry.type) && entry.type != at::kFloat) {
        std::string type = c10::toString(entry.type);
        if (type == "Double") type = "float64";
        if (type == "Half") type = "float16";
        if (type == "BFloat16") type = "bfloat16";
        return concat("'", entry.info.name, "' is ", type);
      }
    }
  }
  return "";
}

void ScriptModule::move_fixed(const at::Device& device) {
  for (Entry& entry : fixed_) {
    const at::Tensor moved = entry.original.to(device);
    for (Place& place : entry.places) place.owner.setattr(place.name, moved);
    for (auto& [list, index] : entry.listed) list.set(index, moved);
  }
}

void ScriptModule::set(const std::vector<at::Tensor>& values, bool fresh) {
  ESPALIER_CHECK(values.size() == entries_.size());
  for (size_t i = 0; i < values.size(); ++i) {
    Entry& entry = entries_[i];
    const at::Tensor value =
        values[i].scalar_type() == entry.type ? values[i] : values[i].to(entry.type);
    for (Place& place : entry.places) place.owner.setattr(place.name, value);
    for (auto& [list, index] : entry.listed) list.set(index, value);
  }
  if (!fresh) return;
  for (State& state : states_) state.place.owner.setattr(state.place.name, state.value.deepcopy());
}

void ScriptModule::collect(const std::vector<at::Tensor>& values) const {
  for (size_t i = 0; i < values.size(); ++i) {
    const Entry& entry = entries_[i];
    if (is_trainable(entry.info.role)) continue;
    const at::Tensor now = current(i).detach();
    if (now.is_alias_of(values[i]) && now.strides() == values[i].strides())
      continue;  // written in place
    if (now.sizes() != values[i].sizes()) {
      fail("train/model", "the module's buffer '", entry.info.name, "' changes its shape from ",
           shape_text(values[i].sizes().vec()), " to ", shape_text(now.sizes().vec()),
           " in training; buffers must keep theirs");
    }
    at::Tensor out = values[i];
    out.copy_(now);
  }
}

ScriptModule::Output ScriptModule::run_all(const at::Tensor& input, bool training) {
  module_.train(training);
  return pick(module_.forward({input}));
}

ScriptModule::Output ScriptModule::pick(const c10::IValue& output) const {
  if (output.isTensor()) {
    if (output_.empty()) return {output.toTensor(), {}};
    fail("train/model", "model.output is \"", output_,
         "\", but the module returns one tensor; leave model.output out");
  }
  const auto parts = parts_of(output);
  if (parts.empty()) {
    fail("train/model", "expected the module to return logits, got ", output.tagKind(),
         "; return a tensor, or a tuple or dictionary that has it");
  }
  if (output_.empty()) {
    if (output.isTuple() && parts.size() == 2 && parts[0].second.isTensor() &&
        parts[1].second.isTensor())
      return {parts[1].second.toTensor(), parts[0].second.toTensor()};
    fail("train/model",
         "the module returns several things; set model.output to what the logits are: ",
         choices(parts));
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto& [name, value] = parts[i];
    if (name != output_ && !(output.isTuple() && std::to_string(i) == output_)) continue;
    if (value.isTensor()) return {value.toTensor(), {}};
    fail("train/model", "model.output \"", output_, "\" is no tensor, but ", value.tagKind(),
         "; tensors: ", choices(parts));
  }
  fail("train/model", "the module returns no \"", output_,
       "\"; set model.output to one of: ", choices(parts));
}

std::vector<at::Tensor> copy_tensors(const ParameterLayout& layout, std::span<const float> values) {
  std::vector<at::Tensor> tensors;
  for (const ParameterInfo& info : layout.tensors()) {
    float* begin = const_cast<float*>(values.data()) + info.offset;
    tensors.push_back(at::from_blob(begin, info.shape, at::kFloat).clone());
  }
  return tensors;
}

std::string batch_text(int64_t count, const std::vector<int64_t>& shape) {
  return concat("a batch of ", count, count == 1 ? " sample" : " samples", " of shape ",
                shape_text(shape));
}

std::string own_words(const std::exception& error) {
  const auto* raised = dynamic_cast<const ::torch::jit::JITException*>(&error);
  if (raised == nullptr) return "";
  std::string text = raised->getOriginalMsg().value_or(raised->what());
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  if (const size_t line = text.rfind('\n'); line != std::string::npos) text = text.substr(line + 1);
  for (const char* name : {"RuntimeError: ", "torch.jit.Error: ", "builtins."}) {
    if (const size_t at = text.find(name); at == 0) text = text.substr(std::string(name).size());
  }
  return text.empty() ? "" : concat(": ", text);
}

std::string detail_of(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  return torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
}

}  // namespace espalier::script

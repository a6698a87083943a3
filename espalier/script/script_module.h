#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>
#include <utility>
#include <vector>

#include "espalier/base/detailed_error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/params/parameter_set.h"
#include "espalier/script/script_file.h"

// A user's TorchScript module as a function of its tensors.
namespace espalier::script {

using namespace models;

// What the module has is sorted as PyTorch sorts it:
//  - parameters are trained, each once, however many names it has (tied weights, a submodule that
//    stands in two places);
//  - frozen parameters (requires_grad = False) keep the file's values, and so do buffers that
//    forward never writes (masks, tables): no layout has them;
//  - buffers that forward writes, in place or by assignment, are statistics (floating) or counters,
//    and so are frozen parameters that it writes in place;
//  - everything else (numbers, lists, optional tensors) that forward changes lasts as long as a fit
//    and begins it as the file has it.
class ScriptModule {
 public:
  // The module at options.file, whose forward returns its logits at options.output. Throws what
  // libtorch throws for a file it cannot read; see with_script_errors.
  explicit ScriptModule(const ModelOptions& options);

  // Trained parameters and then buffers, without units.
  const std::vector<ParameterInfo>& tensors() const { return tensors_; }
  // The file's values of all of them, one after the other.
  const std::vector<float>& initial() const { return initial_; }
  // What keeps the file's values: frozen parameters, and buffers after fix_buffers().
  const std::vector<ParameterInfo>& fixed() const { return fixed_infos_; }
  FixedTensors fixed_tensors() const;
  size_t num_frozen() const;
  // Buffers that forward never writes leave tensors(), but for those that have units in `layout`
  // (of all tensors()): a sub-model takes a part of them, which must travel. The layout of the
  // rest.
  std::shared_ptr<const ParameterLayout> fix_buffers(const ParameterLayout& layout);

  // One value per tensor, of any shape that the module can use; converted to the type that the file
  // has. `fresh`: what is no tensor of these is as in the file again.
  void set(const std::vector<at::Tensor>& values, bool fresh = true);
  // After a pass in training mode: what forward has made of the buffers goes into the values that
  // were set.
  void collect(const std::vector<at::Tensor>& values) const;
  // Fixed tensors onto the device that the others are set on.
  void move_fixed(const at::Device& device);
  // The attribute that tensor `i` is now; the other: of fixed().
  at::Tensor current(size_t i) const { return value_of(entries_[i]); }
  at::Tensor current_fixed(size_t i) const { return value_of(fixed_[i]); }

  // What forward returns: the logits, or the pair (features, logits).
  struct Output {
    at::Tensor logits;
    at::Tensor features;  // undefined when it returns logits alone, or options.output names them
  };
  Output run_all(const at::Tensor& input, bool training);
  at::Tensor run(const at::Tensor& input, bool training) { return run_all(input, training).logits; }
  const ::torch::jit::Module& module() const { return module_; }
  // Whether forward draws random numbers.
  bool random() const { return random_; }
  // A parameter or buffer of another floating type than float32, with its type ("w1 is float64");
  // empty: there is none.
  std::string other_type() const;
  // A module of its own, which shares no tensor with this one.
  ScriptModule copy() const;

 private:
  // An attribute of a submodule.
  struct Place {
    ::torch::jit::Module owner;
    std::string name;
  };
  enum class Kind : uint8_t { kTrained, kFrozen, kWritten, kConstant };
  struct Entry {
    ParameterInfo info;
    Kind kind = Kind::kTrained;
    at::ScalarType type = at::kFloat;
    at::Tensor original;             // the file's
    std::vector<std::string> names;  // of all its attributes; the first is info.name
    std::vector<Place> places = {};
    std::vector<std::pair<c10::List<at::Tensor>, size_t>> listed =
        {};  // elements of lists that it is
  };
  struct State {
    Place place;
    c10::IValue value;  // the file's
  };

  ScriptModule() = default;
  void find_tensors();
  void describe();  // tensors_, initial_, fixed_infos_
  void resolve();   // places, lists, states from names
  Place place(const std::string& name) const;
  static at::Tensor value_of(const Entry& entry);
  Output pick(const c10::IValue& output) const;

  ::torch::jit::Module module_;
  std::string output_;
  std::vector<Entry> entries_, fixed_;
  std::vector<ParameterInfo> tensors_, fixed_infos_;
  std::vector<float> initial_;
  std::vector<std::string> state_names_;
  std::vector<State> states_;
  bool random_ = false;
};

// The flat values of a layout as one tensor each, copied.
std::vector<at::Tensor> copy_tensors(const ParameterLayout& layout, std::span<const float> values);
// "2 samples of shape [8]", for messages.
std::string batch_text(int64_t count, const std::vector<int64_t>& shape);
// What went wrong when a module ran: what the module itself says (an exception that it raises), in
// one line that begins with ": ", or nothing; libtorch's own text is for detail_of().
std::string own_words(const std::exception& error);
std::string detail_of(const std::exception& error);

// Three samples of the data's shape: standard normal values or uniform tokens.
at::Tensor random_samples(const DataSpec& data, Key key);

// Indices of the tensors that the feature map of a module that returns one depends on: parameters
// by its gradient, floating buffers by changing them, and counters that lie beside one of these.
std::vector<size_t> find_script_extractor(ScriptModule& module, const DataSpec& data);

// Unit groups found by following the module's operators, and checked by running it narrowed.
struct ScriptUnits {
  std::shared_ptr<const ParameterLayout> layout;
  std::vector<std::string> notes;  // one line for every part that stays whole unexpectedly
};
// Afterwards the module's tensors are those of the layout (fix_buffers).
ScriptUnits find_script_units(ScriptModule& module, const DataSpec& data);

// Runs `body` on the module at options.file; what goes wrong becomes an Error that names the file.
template <class Body>
auto with_script_errors(const ModelOptions& options, Body body) {
  check_script_file(options.file);
  try {
    return body();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw DetailedError(
        concat("[train/model] libtorch cannot use the TorchScript module", own_words(error),
               "; --verbose shows what it says (", options.file, ")"),
        detail_of(error));
  }
}

}  // namespace espalier::script

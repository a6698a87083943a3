#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>
#include <utility>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/params/parameter_set.h"

// A user's TorchScript module as a function of its tensors.
namespace espalier::script {

using namespace models;

class ScriptModule {
 public:
  // Throws what libtorch throws for a file it cannot read; see with_script_errors.
  explicit ScriptModule(const std::string& file);

  // Named parameters and then named buffers, without units.
  const std::vector<ParameterInfo>& tensors() const { return tensors_; }
  // The file's values of all of them, one after the other.
  const std::vector<float>& initial() const { return initial_; }
  // One value per tensor, of any shape that the module can use; converted to the type that the file
  // has.
  void set(const std::vector<at::Tensor>& values);
  // What forward returns: the logits, or the pair (features, logits).
  struct Output {
    at::Tensor logits;
    at::Tensor features;  // undefined when it returns logits alone
  };
  Output run_all(const at::Tensor& input, bool training);
  at::Tensor run(const at::Tensor& input, bool training) { return run_all(input, training).logits; }
  const ::torch::jit::Module& module() const { return module_; }
  // A module of its own, which shares no tensor with this one.
  ScriptModule copy() const;

 private:
  ScriptModule() = default;
  void find_tensors();

  ::torch::jit::Module module_;
  std::vector<ParameterInfo> tensors_;
  std::vector<float> initial_;
  std::vector<at::ScalarType> types_;
  // Which attribute of which submodule each tensor is.
  std::vector<std::pair<::torch::jit::Module, std::string>> owners_;
  // Element `index` of an attribute that is a list is tensor `tensor`, too.
  struct Listed {
    c10::List<at::Tensor> list;
    size_t index, tensor;
  };
  std::vector<Listed> listed_;
};

// The flat values of a layout as one tensor each, copied.
std::vector<at::Tensor> copy_tensors(const ParameterLayout& layout, std::span<const float> values);

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
ScriptUnits find_script_units(ScriptModule& module, const DataSpec& data);

// Runs `body` on the module at options.file; what goes wrong becomes an Error that names the file.
void check_script_file(const ModelOptions& options);
template <class Body>
auto with_script_errors(const ModelOptions& options, Body body) {
  check_script_file(options);
  try {
    return body();
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

}  // namespace espalier::script

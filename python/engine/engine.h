#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "espalier/base/options.h"
#include "espalier/params/parameter_set.h"

// The parts of the extension module `espalier._engine`: what Python cannot do itself. Everything a
// person meets (names, defaults, progress, errors' advice) is Python, in python/espalier.
namespace espalier::python {

namespace py = pybind11;

void add_data(py::module_& module);
#ifdef ESPALIER_RPC
void add_clients(py::module_& module);
#endif
void add_codecs(py::module_& module);
void add_parameters(py::module_& module);
void add_runs(py::module_& module);
void add_strategies(py::module_& module);

// Options and figures travel as JSON texts.
Json json_of(const std::string& text);

// A NumPy array that shows values where they are, as long as `owner` lives.
py::array show(std::span<const float> values, const std::vector<int64_t>& shape, py::handle owner,
               bool writeable);

// Named tensors as Python sees them. What is const is shown read-only.
struct Parameters {
  std::shared_ptr<ParameterSet> own = nullptr;          // may be changed
  std::shared_ptr<const ParameterSet> fixed = nullptr;  // may not
  ParameterSet* lent = nullptr;                  // somebody else's, during a call; null afterwards
  std::shared_ptr<ParameterSet> left = nullptr;  // what was lent, for arrays of it that live longer

  static Parameters of(ParameterSet values) {
    return {.own = std::make_shared<ParameterSet>(std::move(values))};
  }
  static Parameters of(std::shared_ptr<const ParameterSet> values) {
    return {.fixed = std::move(values)};
  }
  // Throws Error when what was lent is gone.
  const ParameterSet& get() const;
  // Throws Error when it may not be changed.
  ParameterSet& change() const;
  bool writeable() const { return own != nullptr || lent != nullptr; }
  // For whoever keeps them: shared where nobody can change them, else a copy.
  std::shared_ptr<const ParameterSet> share() const;
};

}  // namespace espalier::python

#include "engine/engine.h"
#include "espalier/base/error.h"
#include "espalier/strategy/fedavg.h"

namespace espalier::python {

const ParameterSet& Parameters::get() const {
  if (own) return *own;
  if (fixed) return *fixed;
  if (lent != nullptr) return *lent;
  fail("python", "these parameters were lent for one call, which is over; keep a copy() instead");
}

ParameterSet& Parameters::change() const {
  if (own) return *own;
  if (lent != nullptr) return *lent;
  fail("python", "these parameters are shared and read-only; change a copy() instead");
}

std::shared_ptr<const ParameterSet> Parameters::share() const {
  return fixed ? fixed : std::make_shared<const ParameterSet>(get());
}

py::array show(std::span<const float> values, const std::vector<int64_t>& shape, py::handle owner,
               bool writeable) {
  std::vector<py::ssize_t> sizes(shape.begin(), shape.end());
  py::array out(py::dtype::of<float>(), sizes, values.data(), owner);
  if (!writeable) out.attr("setflags")(py::arg("write") = false);
  return out;
}

namespace {

using Values = py::array_t<float, py::array::c_style | py::array::forcecast>;

const ParameterInfo& tensor_of(const Parameters& parameters, const std::string& name) {
  const ParameterInfo* tensor = parameters.get().layout().find(name);
  if (tensor == nullptr) throw py::key_error(name);
  return *tensor;
}

// Of this very shape: what is turned or broadcast is another tensor. One number may have none.
void set_values(std::span<float> out, const std::vector<int64_t>& shape, const Values& values,
                const std::string& what) {
  const std::vector<int64_t> given(values.shape(), values.shape() + values.ndim());
  if (given != shape && !(given.empty() && out.size() == 1))
    fail("python", "expected ", what, " of shape ", shape_text(shape), ", got ", shape_text(given));
  std::copy_n(values.data(), out.size(), out.begin());
}

}  // namespace

void add_parameters(py::module_& module) {
  py::class_<Parameters>(module, "Parameters",
                         "Named float32 tensors in one buffer: a model, an update, a control "
                         "variate. parameters[name] and .values are views.")
      .def_property_readonly("names",
                             [](const Parameters& self) {
                               std::vector<std::string> names;
                               for (const auto& tensor : self.get().layout().tensors())
                                 names.push_back(tensor.name);
                               return names;
                             })
      .def_property_readonly(
          "trainable",
          [](const Parameters& self) {
            std::vector<std::string> names;
            for (const auto& tensor : self.get().layout().tensors())
              if (is_trainable(tensor.role)) names.push_back(tensor.name);
            return names;
          },
          "Names of the tensors that optimizers change; statistics and counters are not among "
          "them.")
      .def_property_readonly(
          "trainable_mask",
          [](const Parameters& self) {
            const ParameterSet& set = self.get();
            py::array_t<bool> mask(static_cast<py::ssize_t>(set.size()));
            for (const auto& tensor : set.layout().tensors())
              std::fill_n(mask.mutable_data() + tensor.offset, tensor.size,
                          is_trainable(tensor.role));
            return mask;
          },
          "One truth value per value: whether it belongs to a trainable tensor.")
      .def_property(
          "values",
          [](py::object self) {
            const auto& parameters = self.cast<const Parameters&>();
            const ParameterSet& set = parameters.get();
            return show(set.values(), {static_cast<int64_t>(set.size())}, self,
                        parameters.writeable());
          },
          [](Parameters& self, const Values& values) {
            const std::span<float> all = self.change().values();
            set_values(all, {static_cast<int64_t>(all.size())}, values,
                       "the values of all tensors");
          },
          "All values, one after the other: a view, float32.")
      .def("__getitem__",
           [](py::object self, const std::string& name) {
             const auto& parameters = self.cast<const Parameters&>();
             const ParameterInfo& tensor = tensor_of(parameters, name);
             return show(parameters.get().values(tensor), tensor.shape, self,
                         parameters.writeable());
           })
      .def("__setitem__",
           [](Parameters& self, const std::string& name, const Values& values) {
             const ParameterInfo& tensor = tensor_of(self, name);
             set_values(self.change().values(tensor), tensor.shape, values, name);
           })
      .def("__contains__",
           [](const Parameters& self, const std::string& name) {
             return self.get().layout().find(name) != nullptr;
           })
      .def("__len__", [](const Parameters& self) { return self.get().layout().tensors().size(); })
      .def("copy", [](const Parameters& self) { return Parameters::of(ParameterSet(self.get())); })
      .def(
          "zeros",
          [](const Parameters& self) {
            return Parameters::of(ParameterSet(self.get().shared_layout()));
          },
          "Of the same tensors, all 0.")
      .def(
          "apply",
          [](Parameters& self, const Parameters& mean, float lr) {
            ParameterSet& global = self.change();
            if (!(mean.get().layout() == global.layout()))
              fail("python", "apply() needs a mean of the model's tensors");
            strategy::add_trained(lr, mean.get(), global);
            strategy::apply_untrained(mean.get(), global);
          },
          py::arg("mean"), py::arg("lr") = 1.0f,
          "Adds lr times the mean change of what is trained; statistics take theirs whole, "
          "counters "
          "are rounded: FedAvg's step of the server.")
      .def("__repr__", [](const Parameters& self) {
        return concat("<Parameters: ", self.get().layout().tensors().size(), " tensors, ",
                      self.get().size(), " values>");
      });
}

}  // namespace espalier::python

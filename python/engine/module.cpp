#include "engine/engine.h"
#include "espalier/base/error.h"
#include "espalier/base/version.h"

namespace espalier::python {

Json json_of(const std::string& text) {
  Json out = Json::parse(text, nullptr, false);
  if (out.is_discarded()) fail("python", "no JSON: ", text.substr(0, 80));
  return out;
}

}  // namespace espalier::python

PYBIND11_MODULE(_engine, module) {
  namespace py = pybind11;
  using namespace espalier::python;
  static py::exception<espalier::Error> error(module, "Error", PyExc_RuntimeError);
  static py::exception<espalier::StorageError> storage(module, "StorageError", error.ptr());
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const espalier::StorageError& failure) {
      storage(failure.what());
    } catch (const espalier::Error& failure) {
      error(failure.what());
    }
  });
  module.attr("__version__") = espalier::version();
  add_parameters(module);
#ifdef ESPALIER_RPC
  add_clients(module);
#endif
  add_codecs(module);
  add_data(module);
  add_runs(module);
  add_strategies(module);
}

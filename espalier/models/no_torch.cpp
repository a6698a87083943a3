// A program without libtorch.
#include "espalier/base/error.h"
#include "espalier/models/foreign.h"

namespace espalier::models {
namespace {

ModelRow unusable_row() {
  ModelRow row = torchscript_row();
  row.summary += " This program was built without libtorch.";
  return row;
}

void check_device(const std::string& device) {
  if (device != "cpu") {
    fail("train/device", "device \"", device,
         "\" needs libtorch, and this program was built without it (ESPALIER_TORCH=OFF); set "
         "train.device = \"cpu\"");
  }
}

}  // namespace

const ForeignEngine& foreign_engine() {
  static const ForeignEngine none = {.models = {{.row = unusable_row(),
                                                 .make = nullptr,
                                                 .unit_notes = nullptr,
                                                 .model_notes = nullptr}},
                                     .make_graph_net = nullptr,
                                     .check_device = check_device,
                                     .archive = nullptr,
                                     .configure_process = [] {},
                                     .configure_thread = [] {}};
  return none;
}

}  // namespace espalier::models

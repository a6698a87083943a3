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

}  // namespace

const ForeignEngine& foreign_engine() {
  static const ForeignEngine none = {
      {{unusable_row(), nullptr, nullptr, nullptr}},
      nullptr,
      [](const std::string& device) {
        if (device != "cpu") {
          fail("train/device", "device \"", device,
               "\" needs libtorch, and this program was built without it (ESPALIER_TORCH=OFF); set "
               "train.device = \"cpu\"");
        }
      },
      nullptr,
      [] {},
      [] {}};
  return none;
}

}  // namespace espalier::models

// A program without libtorch.
#include "espalier/base/error.h"
#include "espalier/models/foreign.h"

namespace espalier::models {

const ForeignEngine& foreign_engine() {
  static const ForeignEngine none = {
      {{{"torchscript",
         "A scripted PyTorch module of your own; this program was built without libtorch.",
         {"file", "output"}},
        nullptr,
        nullptr,
        nullptr}},
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

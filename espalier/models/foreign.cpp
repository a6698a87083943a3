#include "espalier/models/foreign.h"

namespace espalier::models {

ModelRow torchscript_row() {
  return {"torchscript",
          "A scripted PyTorch module of your own (`file`), trained as it is.",
          {"file", "output"}};
}

}  // namespace espalier::models

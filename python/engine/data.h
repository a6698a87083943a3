#pragma once

#include "engine/engine.h"
#include "espalier/data/handed_over.h"

namespace espalier::python {

// Training and test samples that lie in arrays of Python's.
struct HandedData {
  data::LoadedData data;
};

}  // namespace espalier::python

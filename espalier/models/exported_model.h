#pragma once

#include <cstdint>
#include <vector>

#include "espalier/models/model_options.h"
#include "espalier/train/trainer.h"

namespace espalier::models {

using train::DataSpec;

// What a file must say of a trained model besides its weights.
struct ExportedModel {
  ModelOptions model;
  DataSpec data;
  // Unit counts per group of a physically smaller model, as make_trainer takes them; empty: whole.
  std::vector<int64_t> units = {};
  // Images: how pixels become inputs, per channel: (pixel/255 − mean)/stddev. Empty: as they are.
  std::vector<float> mean = {}, stddev = {};
};

}  // namespace espalier::models

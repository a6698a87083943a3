#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/models/exported_model.h"
#include "espalier/models/make_trainer.h"
#include "espalier/nn/graph.h"
#include "espalier/nn/net.h"

// The seam to an engine that is not ours. A program links exactly one of three libraries that
// define foreign_engine(): espalier_with_torch, which brings libtorch; espalier_lazy_torch, which
// loads it when something needs it; or espalier_no_torch, which brings nothing and says so. The
// rest of the code knows none of them.
namespace espalier::models {

// What all three say of the model that libtorch runs.
ModelRow torchscript_row();

// A model that the foreign engine runs.
struct ForeignModel {
  ModelRow row;
  // Null where the engine is left out.
  std::unique_ptr<nn::Net> (*make)(const ModelOptions& options, const DataSpec& data,
                                   const std::string& device, std::span<const int64_t> units);
  std::vector<std::string> (*unit_notes)(const ModelOptions& options, const DataSpec& data);
  std::vector<std::string> (*model_notes)(const ModelOptions& options, const DataSpec& data);
};

struct ForeignEngine {
  std::vector<ForeignModel> models;
  // Our graphs on a device that is not the processor; null: there is none.
  std::unique_ptr<nn::Net> (*make_graph_net)(nn::Graph graph, const std::string& device);
  // Throws Error when the device cannot be used.
  void (*check_device)(const std::string& device);
  // A trained model as a file that runs without Espalier (script/export.h); null: there is none.
  Bytes (*archive)(const ExportedModel& model, const ParameterSet& weights);
  // Its share of configure_process() and configure_thread() (process.h).
  void (*configure_process)();
  void (*configure_thread)();
};

const ForeignEngine& foreign_engine();

}  // namespace espalier::models

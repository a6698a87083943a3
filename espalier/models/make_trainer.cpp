#include "espalier/models/make_trainer.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/models/foreign.h"
#include "espalier/models/models.h"
#include "espalier/nn/flat_trainer.h"
#include "espalier/nn/graph_net.h"

namespace espalier::models {
namespace {

const ForeignModel* find_foreign(const std::string& name) {
  for (const ForeignModel& model : foreign_engine().models) {
    if (model.row.name == name) return &model;
  }
  return nullptr;
}

[[noreturn]] void refuse_unknown(const std::string& name) {
  std::vector<std::string> known;
  for (const ModelRow& row : model_rows()) known.push_back(row.name);
  fail("train/model", unknown_name_message("model", name, known));
}

std::unique_ptr<nn::Net> make_net(const ModelOptions& model, const DataSpec& data,
                                  const HardwareOptions& hardware, std::span<const int64_t> units) {
  if (auto graph = build_graph(model, data); graph != nullptr) {
    if (!units.empty()) *graph = nn::narrow(*graph, units);
    if (graph->tokens && hardware.precision != "fp32") {
      fail("train/precision", "model '", model.name,
           "' trains in fp32; set train.precision = \"fp32\"");
    }
    if (hardware.device == "cpu") {
      return std::make_unique<nn::GraphNet>(
          std::move(*graph), hardware.precision == "bf16" ? nn::Type::kBf16 : nn::Type::kFloat);
    }
    if (hardware.precision != "fp32")
      fail("train/precision", "device \"cuda\" trains in fp32; set train.precision = \"fp32\"");
    return foreign_engine().make_graph_net(std::move(*graph), hardware.device);
  }
  const ForeignModel* foreign = find_foreign(model.name);
  if (foreign == nullptr) refuse_unknown(model.name);
  check_gates(model, false);
  if (foreign->make == nullptr) {
    fail(
        "train/model", "model '", model.name,
        "' needs libtorch, and this program was built without it (ESPALIER_TORCH=OFF); use a model "
        "of `espalier list models` that does not");
  }
  if (hardware.precision != "fp32") {
    fail("train/precision", "model '", model.name,
         "' trains in fp32; set train.precision = \"fp32\"");
  }
  return foreign->make(model, data, hardware.device, units);
}

}  // namespace

const std::vector<ModelRow>& model_rows() {
  static const std::vector<ModelRow> rows = [] {
    std::vector<ModelRow> all;
    for (const GraphModel& model : graph_models()) all.push_back(model.row);
    for (const ForeignModel& model : foreign_engine().models) all.push_back(model.row);
    return all;
  }();
  return rows;
}

std::vector<IdleOption> idle_model_options(const ModelOptions& model) {
  std::vector<IdleOption> idle;
  const Json changed = changed_options(model);
  for (const auto& [key, value] : changed.items()) {
    std::string readers;
    bool reads = false;
    for (const ModelRow& row : model_rows()) {
      if (std::find(row.options.begin(), row.options.end(), key) == row.options.end()) continue;
      reads = reads || row.name == model.name;
      readers += (readers.empty() ? "" : ", ") + row.name;
    }
    if (!readers.empty() && !reads)
      idle.push_back({key, value, "another model than " + model.name + " (" + readers + ")"});
  }
  return idle;
}

std::shared_ptr<const ParameterLayout> model_layout(const ModelOptions& model,
                                                    const DataSpec& data) {
  if (const auto graph = build_graph(model, data); graph != nullptr) return graph->layout;
  return make_net(model, data, {}, {})->layout();
}

std::vector<std::string> unit_notes(const ModelOptions& model, const DataSpec& data) {
  const ForeignModel* foreign = find_foreign(model.name);
  return foreign != nullptr && foreign->unit_notes != nullptr ? foreign->unit_notes(model, data)
                                                              : std::vector<std::string>{};
}

std::vector<std::string> model_notes(const ModelOptions& model, const DataSpec& data) {
  const ForeignModel* foreign = find_foreign(model.name);
  return foreign != nullptr && foreign->model_notes != nullptr ? foreign->model_notes(model, data)
                                                               : std::vector<std::string>{};
}

std::string unit_mixer(const ModelOptions& model) {
  if (model.norm == "group") return "model.norm = \"group\"";
  if (model.gates != "none") return concat("model.gates = \"", model.gates, "\"");
  return "";
}

std::unique_ptr<Trainer> make_trainer(const ModelOptions& model, const DataSpec& data,
                                      const HardwareOptions& hardware,
                                      std::span<const int64_t> units) {
  if (data.num_classes < 1) fail("train/model", "the data set has no classes");
  foreign_engine().check_device(hardware.device);
  const auto narrower = [model, data, hardware](std::span<const int64_t> fewer) {
    return make_net(model, data, hardware, fewer);
  };
  return std::make_unique<nn::FlatTrainer>(make_net(model, data, hardware, units), data, narrower,
                                           model.init);
}

}  // namespace espalier::models

#include "espalier/script/export.h"

#include <sstream>

#include "espalier/base/file.h"
#include "espalier/base/version.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/models.h"
#include "espalier/script/export_code.h"
#include "espalier/script/export_module.h"
#include "espalier/script/script_module.h"
#include "espalier/script/script_random.h"

namespace espalier::script {
namespace {

const char* kind_name(data::Kind kind) {
  switch (kind) {
    case data::Kind::kImage:
      return "image";
    case data::Kind::kFloat:
      return "float";
    case data::Kind::kTokens:
      return "tokens";
  }
  ESPALIER_CHECK(false, "a kind of data without a name");
}

std::string description(const ExportedModel& model, const ParameterLayout& layout) {
  Json about = {{"written_by", concat("espalier ", version())},
                {"model", model.model.name},
                {"data", kind_name(model.data.kind)},
                {"sample_shape", model.data.sample_shape},
                {"num_classes", model.data.num_classes}};
  if (model.data.kind == data::Kind::kTokens) about["vocabulary"] = model.data.vocabulary;
  if (!model.model.output.empty()) about["output"] = model.model.output;
  if (!model.mean.empty()) {
    about["normalization"] = {
        {"formula", "(pixel / 255 - mean) / stddev, per channel"},
        {"mean", model.mean},
        {"stddev", model.stddev},
    };
  }
  about["units"] = Json::object();
  for (const UnitGroup& group : layout.groups()) about["units"][group.name] = group.size;
  return about.dump(1) + "\n";
}

// The user's module with these values in the place of its own.
::torch::jit::Module script_module(const ExportedModel& model, const ParameterSet& weights) {
  ScriptModule module(model.model);
  const RandomScope random(Key(0), true);
  find_script_units(module, model.data);  // which of its tensors the layout has
  std::vector<at::Tensor> tensors = copy_tensors(weights.layout(), weights.values());
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (is_trainable(weights.layout().tensors()[i].role)) tensors[i].requires_grad_(true);
  }
  module.set(tensors);
  ::torch::jit::Module out = module.module();
  out.eval();
  return out;
}

::torch::jit::Module make_module(const ExportedModel& model, const ParameterSet& weights) {
  if (auto graph = build_graph(model.model, model.data); graph != nullptr) {
    if (!model.units.empty()) *graph = narrow(*graph, model.units);
    return ModuleTree(weights).define(graph_code(*graph));
  }
  return with_script_errors(model.model, [&] { return script_module(model, weights); });
}

}  // namespace

Bytes torchscript_archive(const ExportedModel& model, const ParameterSet& weights) {
  // Says what is wrong with the model, its data and its units.
  const auto trainer = make_trainer(model.model, model.data, {}, model.units);
  if (!(*trainer->layout() == weights.layout())) {
    fail("train/export", "expected weights of ", trainer->layout()->size(), " values for model '",
         model.model.name, "', got others of ", weights.size(), " values");
  }
  std::ostringstream archive;
  try {
    make_module(model, weights)
        .save(archive, {{"espalier.json", description(model, weights.layout())}});
  } catch (const Error&) {
    throw;
  } catch (const c10::Error& error) {
    fail("train/export", "libtorch cannot write model '", model.model.name,
         "': ", error.what_without_backtrace());
  } catch (const std::exception& error) {  // TorchScript's compiler
    fail("train/export", "libtorch cannot write model '", model.model.name, "': ", error.what());
  }
  const std::string bytes = archive.str();
  return Bytes(bytes.begin(), bytes.end());
}

void export_torchscript(const ExportedModel& model, const ParameterSet& weights,
                        const std::filesystem::path& file) {
  write_file_atomic(file, torchscript_archive(model, weights));
}

}  // namespace espalier::script

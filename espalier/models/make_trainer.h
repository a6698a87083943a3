#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/models/model_options.h"
#include "espalier/train/hardware_options.h"
#include "espalier/train/trainer.h"

// Models by name: the training engine's own graphs (models.h) and, where the program is linked with
// them, those that another engine runs (foreign.h).
namespace espalier::models {

// Models are what the contract of train is fulfilled with.
using namespace train;

// `units`, when not empty, makes the same model with units[g] units in each group g of its layout.
// Throws Error for an unknown model, one that does not fit the data, units that do not fit the
// model, one that needs an engine that this program is built without, or a device that is not
// there.
std::unique_ptr<Trainer> make_trainer(const ModelOptions& model, const DataSpec& data,
                                      const HardwareOptions& hardware = {},
                                      std::span<const int64_t> units = {});

// The model's layout with its unit groups, without making a replica: what a client must know of a
// model of which it holds a part.
std::shared_ptr<const ParameterLayout> model_layout(const ModelOptions& model,
                                                    const DataSpec& data);

// What a person should know of the model's units before they are dropped, a line each; empty for
// models whose units are all known. Throws Error when the model cannot be made.
std::vector<std::string> unit_notes(const ModelOptions& model, const DataSpec& data);

// The same before the model is trained.
std::vector<std::string> model_notes(const ModelOptions& model, const DataSpec& data);

// What in the model looks at all units of a layer at once ("model.norm = \"group\""), so that a net
// without some of them is another function than the whole one with zeros in their place; empty:
// nothing. In modules such layers keep all their units (script/script_units.h).
std::string unit_mixer(const ModelOptions& model);

// Names and one-line descriptions for `espalier list models`.
struct ModelRow {
  std::string name, summary;
  // The keys of [model] that only some models read, and this one does.
  std::vector<std::string> options = {};
};
const std::vector<ModelRow>& model_rows();
// Keys that are not at their defaults although only other models read them, with these models.
std::vector<IdleOption> idle_model_options(const ModelOptions& model);

}  // namespace espalier::models

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "espalier/base/config.h"
#include "espalier/base/options.h"
#include "espalier/data/load.h"
#include "espalier/data/partition.h"
#include "espalier/models/model_options.h"
#include "espalier/round/devices.h"
#include "espalier/round/run_options.h"
#include "espalier/round/submodel_plan.h"
#include "espalier/strategy/strategy.h"
#include "espalier/train/train_options.h"

namespace espalier::run {

// A whole configuration, read and checked. `resolved` holds every key with its value, defaults
// included, in a fixed order; it is what config.toml of a run stores and what resume reads back.
struct RunConfig {
  round::RunOptions run;
  data::DataOptions data;
  data::PartitionOptions partition;
  models::ModelOptions model;
  train::TrainOptions train;
  round::SelectionOptions selection;
  round::SubmodelOptions submodel;
  std::vector<round::DeviceOptions> devices;  // [[devices]]
  Json strategy = Json::object();             // the whole [strategy] table, resolved
  Json downlink = Json::array();              // [[downlink]] tables as given
  Json uplink = Json::array();                // [[uplink]] tables as given
  Json resolved;
};

// Reads a parsed TOML tree. Throws Error for an unknown key or name, a wrong type, a value out of
// range, or one that would have no effect. "version" and "build", which a resolved configuration
// carries, are accepted. Keys of [model] that another model reads are left to
// refuse_idle_model_options(): what does not fit the data is worth saying first.
RunConfig read_run_config(const Json& tree);
void refuse_idle_model_options(const RunConfig& config);

// What else is wrong with a configuration and can be seen without its data: idle options of its
// model, unknown stages of its links, what does not go together. Throws Error.
void check_run_config(const RunConfig& config);

// Applies assignments ("key=value") to a file's tree. Where they choose another model, data set,
// partition or strategy than the file does, what the file says for its own choice goes; returns a
// line for each such key.
std::vector<std::string> override_config(Json& tree, const std::vector<Assignment>& assignments);
std::vector<std::string> override_config(Json& tree, const std::vector<std::string>& assignments);

// The strategy of a configuration.
std::unique_ptr<strategy::Strategy> make_strategy(const RunConfig& config);

// Every section with its keys, for --help and the reference page.
struct SectionHelp {
  std::string section;
  std::vector<FieldHelp> fields;
};
std::vector<SectionHelp> describe_config();
// The sections that a configuration of this strategy has, each under its plain name.
std::vector<SectionHelp> describe_config(const std::string& strategy);

}  // namespace espalier::run

#include "espalier/run/run_config.h"

#include "espalier/base/error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/strategy/strategy.h"

namespace espalier::run {

namespace {

const std::vector<std::string>& selection_keys() {
  static const std::vector<std::string> keys = [] {
    std::vector<std::string> names;
    for (const FieldHelp& field : describe_options<round::SelectionOptions>())
      names.push_back(field.name);
    return names;
  }();
  return keys;
}

std::vector<std::string> names_of(const auto& rows) {
  std::vector<std::string> names;
  for (const auto& row : rows) names.push_back(row.name);
  return names;
}

void check_name(std::string_view kind, const std::string& name,
                const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), name) == known.end())
    fail("config", unknown_name_message(kind, name, known));
}

Json table_list(const Json& tree, const std::string& key) {
  const auto found = tree.find(key);
  if (found == tree.end()) return Json::array();
  if (!found->is_array())
    fail("config", "expected a list of tables [[", key, "]], got ", found->dump());
  for (const Json& stage : *found) {
    if (!stage.is_object()) fail("config", "expected a table [[", key, "]], got ", stage.dump());
  }
  return *found;
}

}  // namespace

RunConfig read_run_config(const Json& tree) {
  RunConfig config;
  const ConfigSection root{&tree, ""};
  read_options(root,
               {"version", "data", "model", "train", "strategy", "submodel", "devices", "downlink",
                "uplink"},
               config.run);
  const ConfigSection data = root.section("data");
  read_options(data, {"partition"}, config.data);
  read_options(data.section("partition"), {}, config.partition);
  read_options(root.section("model"), {}, config.model);
  read_options(root.section("train"), {}, config.train);
  check_name("dataset", config.data.name, names_of(data::dataset_rows()));
  check_name("partition", config.partition.name, names_of(data::partition_rows()));
  check_name("model", config.model.name, names_of(models::model_rows()));

  const ConfigSection section = root.section("strategy");
  if (section.table != nullptr) {
    // The shared keys are read from a copy that has only them; the strategy's own reader reports
    // unknown keys.
    Json shared = Json::object();
    for (const std::string& key : selection_keys()) {
      if (const auto found = section.table->find(key); found != section.table->end())
        shared[key] = *found;
    }
    read_options({&shared, "strategy"}, {}, config.selection);
  }
  const strategy::StrategyRow& row = strategy::find_strategy(config.selection.name);
  write_options(config.selection, config.strategy);
  row.resolve(section, selection_keys(), config.strategy);
  read_options(root.section("submodel"), {}, config.submodel);
  if (config.submodel.name != "none") submodel::find_selection(config.submodel.name);
  const Json devices = table_list(tree, "devices");
  for (size_t i = 0; i < devices.size(); ++i) {
    read_options({&devices[i], concat("devices[", i, "]")}, {}, config.devices.emplace_back());
  }
  config.downlink = table_list(tree, "downlink");
  config.uplink = table_list(tree, "uplink");

  Json& out = config.resolved = Json::object();
  out["version"] = ESPALIER_VERSION;
  write_options(config.run, out);
  write_options(config.data, out["data"] = Json::object());
  write_options(config.partition, out["data"]["partition"] = Json::object());
  write_options(config.model, out["model"] = Json::object());
  write_options(config.train, out["train"] = Json::object());
  out["strategy"] = config.strategy;
  write_options(config.submodel, out["submodel"] = Json::object());
  for (const round::DeviceOptions& device : config.devices)
    write_options(device, out["devices"].emplace_back(Json::object()));
  if (!config.downlink.empty()) out["downlink"] = config.downlink;
  if (!config.uplink.empty()) out["uplink"] = config.uplink;
  return config;
}

std::unique_ptr<strategy::Strategy> make_strategy(const RunConfig& config) {
  const strategy::StrategyRow& row = strategy::find_strategy(config.selection.name);
  return row.create({&config.strategy, "strategy"}, selection_keys());
}

std::vector<SectionHelp> describe_config() {
  std::vector<SectionHelp> sections = {
      {"", describe_options<round::RunOptions>()},
      {"data", describe_options<data::DataOptions>()},
      {"data.partition", describe_options<data::PartitionOptions>()},
      {"model", describe_options<models::ModelOptions>()},
      {"train", describe_options<train::TrainOptions>()},
      {"submodel", describe_options<round::SubmodelOptions>()},
      {"devices (a list of tables, [[devices]])", describe_options<round::DeviceOptions>()},
      {"strategy", describe_options<round::SelectionOptions>()},
  };
  for (const strategy::StrategyRow& row : strategy::strategy_rows()) {
    sections.push_back({"strategy, name = \"" + row.name + "\"", row.describe()});
  }
  return sections;
}

}  // namespace espalier::run

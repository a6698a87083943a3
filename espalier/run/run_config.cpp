#include "espalier/run/run_config.h"

#include <algorithm>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/version.h"
#include "espalier/codec/codec.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/round/refusals.h"
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

// A schedule that changes nothing, and the horizon of one that does.
void check_schedule(RunConfig& config) {
  train::ScheduleOptions& schedule = config.train.schedule;
  if (schedule.lr_schedule == "step" && schedule.lr_decay == 1) {
    fail("config",
         "train.lr_schedule = \"step\" has no effect with train.lr_decay = 1; set it below 1");
  }
  if (schedule.lr_schedule != "cosine") return;
  if (schedule.schedule_rounds == 0) schedule.schedule_rounds = config.run.rounds;
  if (schedule.schedule_rounds > 0 && schedule.lr_warmup_rounds >= schedule.schedule_rounds) {
    fail("config", "train.lr_warmup_rounds = ", schedule.lr_warmup_rounds,
         " leaves no round for the cosine of ", schedule.schedule_rounds,
         " rounds; lower it or raise train.schedule_rounds");
  }
}

// Growing begins with small weights of its own.
void check_growth(const RunConfig& config) {
  if (!config.submodel.grow) return;
  const auto refuse = [](const std::string& what) {
    fail("config", "submodel.grow begins with weights drawn for the small net, which ", what,
         "; leave one of the two out");
  };
  if (!config.model.init.empty()) refuse("model.init has not");
  if (config.model.name == "torchscript") refuse("a module's own weights are not");
  if (const std::string mixer = models::unit_mixer(config.model); !mixer.empty())
    refuse(concat(mixer, " mixes with the other units"));
  if (config.submodel.whole_until > 0) refuse("submodel.whole_until does not begin with");
}

template <class Options>
Options read_section(const ConfigSection& section, const std::vector<std::string>& other_keys) {
  Options options;
  read_options(section, other_keys, options);
  return options;
}

// What a section says that its choice (its key "name") does not read.
std::vector<IdleOption> idle_in(const std::string& path, const ConfigSection& section) {
  if (path == "model")
    return models::idle_model_options(read_section<models::ModelOptions>(section, {}));
  if (path == "data") return idle_options(read_section<data::DataOptions>(section, {"partition"}));
  if (path == "data.partition")
    return idle_options(read_section<data::PartitionOptions>(section, {}));
  std::vector<std::string> known = selection_keys();
  const Json chosen = section.table->value("name", Json(round::SelectionOptions().name));
  if (!chosen.is_string()) return {};  // for the reader to refuse
  const auto name = chosen.get<std::string>();
  for (const FieldHelp& field : strategy::find_strategy(name).describe())
    known.push_back(field.name);
  std::vector<IdleOption> unknown;
  for (const auto& [key, value] : section.table->items()) {
    if (std::find(known.begin(), known.end(), key) == known.end())
      unknown.push_back({key, value, concat("another strategy than ", name)});
  }
  return unknown;
}

// The table at a dotted path; null when there is none.
Json* find_table(Json& tree, std::string_view path) {
  Json* table = &tree;
  while (!path.empty()) {
    const size_t end = std::min(path.find('.'), path.size());
    const auto found = table->find(path.substr(0, end));
    if (found == table->end() || !found->is_object()) return nullptr;
    table = &*found;
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return table;
}

}  // namespace

std::vector<std::string> override_config(Json& tree, const std::vector<std::string>& assignments) {
  std::vector<Assignment> parsed;
  for (const std::string& text : assignments) parsed.push_back(parse_assignment(text));
  return override_config(tree, parsed);
}

std::vector<std::string> override_config(Json& tree, const std::vector<Assignment>& assignments) {
  constexpr const char* kChoices[] = {"model", "data", "data.partition", "strategy"};
  Json file = tree;
  for (const Assignment& assignment : assignments) set_config_value(tree, assignment);
  std::vector<std::string> notes;
  for (const std::string path : kChoices) {
    Json *before = find_table(file, path), *after = find_table(tree, path);
    if (before == nullptr || after == nullptr ||
        before->value("name", Json()) == after->value("name", Json())) {
      continue;
    }
    for (const IdleOption& idle : idle_in(path, {after, path})) {
      const std::string key = path + "." + idle.name;
      // Given for this choice, alone or with the whole section: a mistake, for the reader to name.
      const bool assigned =
          std::any_of(assignments.begin(), assignments.end(), [&](const Assignment& assignment) {
            return assignment.key == key || assignment.key == path;
          });
      if (assigned || !before->contains(idle.name)) continue;
      after->erase(idle.name);
      notes.push_back(
          concat(key, " = ", idle.value.dump(), " of the file is left out: it needs ", idle.needs));
    }
  }
  return notes;
}

void refuse_idle_model_options(const RunConfig& config) {
  refuse_idle("model", models::idle_model_options(config.model));
}

void check_run_config(const RunConfig& config) {
  refuse_idle_model_options(config);
  const auto downlink = codec::make_codec(config.downlink, "downlink");
  const auto uplink = codec::make_codec(config.uplink, "uplink");
  const auto strategy = make_strategy(config);
  const strategy::Traits traits = strategy->traits();
  round::refuse_combinations(
      {traits, config.selection, config.run, config.submodel, config.devices, *uplink, *downlink});
}

RunConfig read_run_config(const Json& tree) {
  RunConfig config;
  const ConfigSection root{&tree, ""};
  read_options(root,
               {"version", "build", "data", "model", "train", "strategy", "submodel", "devices",
                "downlink", "uplink", "server", "client", "network", "security"},
               config.run);
  const ConfigSection data = root.section("data");
  read_options(data, {"partition"}, config.data);
  read_options(data.section("partition"), {}, config.partition);
  read_options(root.section("model"), {}, config.model);
  read_options(root.section("train"), {}, config.train);
  check_name("data set", config.data.name, names_of(data::dataset_rows()));
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
  refuse_idle("data", idle_options(config.data));
  refuse_idle("data.partition", idle_options(config.partition));
  refuse_idle("train", idle_options(config.train));
  check_schedule(config);
  check_growth(config);
  config.downlink = table_list(tree, "downlink");
  config.uplink = table_list(tree, "uplink");

  Json& out = config.resolved = Json::object();
  out["version"] = version();
  out["build"] = build_id();
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

namespace {

std::vector<SectionHelp> shared_sections() {
  return {
      {"", describe_options<round::RunOptions>()},
      {"data", describe_options<data::DataOptions>()},
      {"data.partition", describe_options<data::PartitionOptions>()},
      {"model", describe_options<models::ModelOptions>()},
      {"train", describe_options<train::TrainOptions>()},
      {"submodel", describe_options<round::SubmodelOptions>()},
  };
}

}  // namespace

std::vector<SectionHelp> describe_config() {
  std::vector<SectionHelp> sections = shared_sections();
  sections.push_back(
      {"devices (a list of tables, [[devices]])", describe_options<round::DeviceOptions>()});
  sections.push_back({"strategy", describe_options<round::SelectionOptions>()});
  for (const strategy::StrategyRow& row : strategy::strategy_rows())
    sections.push_back({"strategy, name = \"" + row.name + "\"", row.describe()});
  return sections;
}

std::vector<SectionHelp> describe_config(const std::string& strategy) {
  std::vector<SectionHelp> sections = shared_sections();
  SectionHelp own{"strategy", describe_options<round::SelectionOptions>()};
  for (FieldHelp& field : strategy::find_strategy(strategy).describe())
    own.fields.push_back(std::move(field));
  sections.push_back(std::move(own));
  return sections;
}

}  // namespace espalier::run

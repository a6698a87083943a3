#include <cstdio>

#include "apps/command.h"
#include "espalier/base/error.h"
#include "espalier/codec/registry.h"
#include "espalier/data/load.h"
#include "espalier/data/partition.h"
#include "espalier/models/make_trainer.h"
#include "espalier/prune/criteria.h"
#include "espalier/run/run_config.h"
#include "espalier/strategy/strategy.h"
#include "espalier/submodel/selection.h"
#include "espalier/train/trainer.h"

namespace espalier::apps {

namespace {

using Rows = std::vector<std::pair<std::string, std::string>>;

Rows rows_of(const auto& table) {
  Rows rows;
  for (const auto& row : table) rows.emplace_back(row.name, row.summary);
  return rows;
}

struct Listing {
  std::string kind;
  Rows (*rows)();
};

const std::vector<Listing>& listings() {
  static const std::vector<Listing> all = {
      {"strategies", [] { return rows_of(strategy::strategy_rows()); }},
      {"codecs", [] { return rows_of(codec::stage_rows()); }},
      {"models", [] { return rows_of(models::model_rows()); }},
      {"datasets", [] { return rows_of(data::dataset_rows()); }},
      {"partitions", [] { return rows_of(data::partition_rows()); }},
      {"submodels", [] { return rows_of(submodel::selection_rows()); }},
      {"criteria", [] { return rows_of(prune::criterion_rows()); }},
  };
  return all;
}

void print_rows(const Rows& rows) {
  size_t width = 0;
  for (const auto& [name, summary] : rows) width = std::max(width, name.size());
  for (const auto& [name, summary] : rows)
    std::printf("  %-*s  %s\n", static_cast<int>(width), name.c_str(), summary.c_str());
}

void list_options(bool json) {
  Json out = Json::object();
  for (const run::SectionHelp& section : run::describe_config()) {
    if (!json) std::printf("[%s]\n", section.section.c_str());
    for (const FieldHelp& field : section.fields) {
      if (json) {
        out[section.section][field.name] = {{"type", field.type},
                                            {"default", Json::parse(field.default_value)},
                                            {"doc", field.doc}};
      } else {
        std::printf("  %s = %s\n      %s\n", field.name.c_str(), field.default_value.c_str(),
                    field.doc.c_str());
      }
    }
  }
  if (json) std::printf("%s\n", out.dump().c_str());
}

void list(const std::string& kind, bool json) {
  if (kind == "options") return list_options(json);
  for (const Listing& listing : listings()) {
    if (listing.kind != kind) continue;
    const Rows rows = listing.rows();
    if (!json) return print_rows(rows);
    Json out = Json::object();
    for (const auto& [name, summary] : rows) out[name] = summary;
    std::printf("%s\n", out.dump().c_str());
    return;
  }
}

}  // namespace

void add_list_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("list", "Show what there is to choose from");
  auto kind = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  std::vector<std::string> kinds = {"options"};
  for (const Listing& listing : listings()) kinds.push_back(listing.kind);
  command->add_option("KIND", *kind, "What to list")->required()->check(CLI::IsMember(kinds));
  command->add_flag("--json", *json, "Print one JSON object");
  command->footer(
      "Examples:\n  espalier list strategies\n  espalier list options   (every key of a "
      "configuration)");
  command->callback([kind, json] { list(*kind, *json); });
}

}  // namespace espalier::apps

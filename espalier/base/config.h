#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "espalier/base/options.h"

// TOML files as trees. This is the only place that knows the TOML library.
namespace espalier {

// Parses TOML text; `where` names the source in errors, which carry line and column.
Json parse_toml(std::string_view text, std::string_view where);
Json read_toml_file(const std::filesystem::path& path);

// The tree as TOML text that parse_toml reads back to an equal tree: scalars first, then tables.
std::string to_toml(const Json& root);
// One value as it stands behind "key = ", tables inline.
std::string to_toml_value(const Json& value);

// A value for a dotted key, as a command line ("train.lr=0.1") or a study gives it.
struct Assignment {
  std::string key;
  Json value;
};

// "dotted.key=value": the value is a TOML value, or a plain string when it is not one.
Assignment parse_assignment(std::string_view text);

// Tables are created, a number in the path indexes an existing list. An Error when a step of the
// path is a scalar.
void set_config_value(Json& root, const Assignment& assignment);
void set_config_value(Json& root, std::string_view assignment);

}  // namespace espalier

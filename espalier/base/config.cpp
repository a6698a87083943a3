#include "espalier/base/config.h"

#include <toml++/toml.h>

#include <charconv>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier {

namespace {

Json from_toml(const toml::node& node, std::string_view where) {
  if (const auto* table = node.as_table()) {
    Json out = Json::object();
    for (const auto& [key, value] : *table) out[std::string(key.str())] = from_toml(value, where);
    return out;
  }
  if (const auto* array = node.as_array()) {
    Json out = Json::array();
    for (const auto& value : *array) out.push_back(from_toml(value, where));
    return out;
  }
  if (const auto* value = node.as_string()) return Json(value->get());
  if (const auto* value = node.as_integer()) return Json(value->get());
  if (const auto* value = node.as_floating_point()) return Json(value->get());
  if (const auto* value = node.as_boolean()) return Json(value->get());
  fail("config", "dates are not used here (", where, ", line ", node.source().begin.line, ")");
}

bool is_bare_key(std::string_view key) {
  return !key.empty() && key.find_first_not_of(
                             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
                             std::string_view::npos;
}

std::string key_text(const std::string& key) { return is_bare_key(key) ? key : Json(key).dump(); }

bool is_table_list(const Json& value) {
  if (!value.is_array() || value.empty()) return false;
  for (const Json& item : value) {
    if (!item.is_object()) return false;
  }
  return true;
}

std::string value_text(const Json& value) {
  if (value.is_array()) {
    std::string text = "[";
    for (size_t i = 0; i < value.size(); ++i) text += (i > 0 ? ", " : "") + value_text(value[i]);
    return text + "]";
  }
  if (value.is_object()) {
    std::string text;
    for (const auto& [key, item] : value.items())
      text += (text.empty() ? "{" : ", ") + key_text(key) + " = " + value_text(item);
    return text.empty() ? "{}" : text + "}";
  }
  if (value.is_number_float()) {
    std::string text = value.dump();
    if (text.find_first_of(".eE") == std::string::npos) text += ".0";
    return text;
  }
  return value.dump();  // JSON strings, integers and booleans are TOML too.
}

void write_table(const Json& table, const std::string& path, std::string& out) {
  for (const auto& [key, value] : table.items()) {
    if (!value.is_object() && !is_table_list(value))
      out += key_text(key) + " = " + value_text(value) + "\n";
  }
  for (const auto& [key, value] : table.items()) {
    const std::string inner = path.empty() ? key_text(key) : path + "." + key_text(key);
    if (value.is_object()) {
      out += "\n[" + inner + "]\n";
      write_table(value, inner, out);
    } else if (is_table_list(value)) {
      for (const Json& item : value) {
        out += "\n[[" + inner + "]]\n";
        write_table(item, inner, out);
      }
    }
  }
}

Json parse_value(std::string_view text) {
  try {
    const toml::table parsed = toml::parse("v = " + std::string(text));
    if (parsed.size() == 1) return from_toml(*parsed.get("v"), "--set");
  } catch (const toml::parse_error&) {
    // Not a TOML value: a plain string, so that --set strategy.name=fedprox needs no quotes.
  }
  return Json(std::string(text));
}

}  // namespace

Json parse_toml(std::string_view text, std::string_view where) {
  try {
    return from_toml(toml::parse(text, std::string(where)), where);
  } catch (const toml::parse_error& error) {
    fail("config", error.description(), " (", where, ", line ", error.source().begin.line,
         ", column ", error.source().begin.column, ")");
  }
}

Json read_toml_file(const std::filesystem::path& path) {
  return parse_toml(read_text_file(path), path.string());
}

std::string to_toml_value(const Json& value) { return value_text(value); }

std::string to_toml(const Json& root) {
  std::string out;
  write_table(root, "", out);
  return out;
}

Assignment parse_assignment(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0)
    fail("config", "expected --set key=value, got '", text, "'");
  return {std::string(text.substr(0, equals)), parse_value(text.substr(equals + 1))};
}

void set_config_value(Json& root, const Assignment& assignment) {
  std::string_view path = assignment.key;
  Json* node = &root;
  for (;;) {
    const size_t dot = path.find('.');
    const std::string step(path.substr(0, dot));
    if (step.empty()) fail("config", "expected a dotted key, got '", assignment.key, "'");
    if (node->is_null()) *node = Json::object();
    if (node->is_array()) {
      size_t index = 0;
      const auto [end, status] = std::from_chars(step.data(), step.data() + step.size(), index);
      if (status != std::errc() || end != step.data() + step.size() || index >= node->size()) {
        fail("config", "expected an index below ", node->size(), " at '", step, "' in ",
             assignment.key);
      }
      node = &(*node)[index];
    } else if (node->is_object()) {
      node = &(*node)[step];
    } else {
      fail("config", "'", step, "' lies inside a plain value in ", assignment.key);
    }
    if (dot == std::string_view::npos) break;
    path = path.substr(dot + 1);
  }
  *node = assignment.value;
}

void set_config_value(Json& root, std::string_view assignment) {
  set_config_value(root, parse_assignment(assignment));
}

}  // namespace espalier

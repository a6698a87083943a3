#include "espalier/base/options.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

namespace espalier {

namespace {

std::string range_text(const Field& field) {
  if (std::isinf(field.min) && std::isinf(field.max)) return "a finite number";
  std::string text = "a number";
  if (!std::isinf(field.min))
    text += concat(field.min_open ? " above " : " of at least ", field.min);
  if (!std::isinf(field.max)) {
    text += concat(std::isinf(field.min) ? "" : " and", field.max_open ? " below " : " at most ",
                   field.max);
  }
  return text;
}

}  // namespace

void Field::check(const std::string& key, double value) const {
  const bool low = min_open ? value > min : value >= min;
  const bool high = max_open ? value < max : value <= max;
  if (!std::isfinite(value) || !low || !high) {
    fail("config", "expected ", range_text(*this), " for ", key, ", got ", value);
  }
}

void Field::check(const std::string& key, const std::string& value) const {
  if (choices.empty() || std::find(choices.begin(), choices.end(), value) != choices.end()) return;
  fail("config", unknown_name_message(key, value, choices));
}

ConfigSection ConfigSection::section(std::string_view name) const {
  ConfigSection inner{nullptr, key(name)};
  if (table == nullptr) return inner;
  const auto found = table->find(name);
  if (found == table->end()) return inner;
  if (!found->is_object()) detail::wrong_type(inner.path, "a table", *found);
  inner.table = &*found;
  return inner;
}

void refuse_idle(const std::string& path, const std::vector<IdleOption>& idle) {
  if (idle.empty()) return;
  const ConfigSection section{nullptr, path};
  fail("config", section.key(idle[0].name), " = ", idle[0].value.dump(),
       " has no effect: it needs ", idle[0].needs, "; leave it out or change that");
}

namespace detail {

void wrong_type(const std::string& key, std::string_view expected, const Json& value) {
  // A peer's string need not be UTF-8.
  fail("config", "expected ", expected, " for ", key, ", got ",
       value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void unknown_key(const ConfigSection& section, const std::string& key,
                 const std::vector<std::string>& known) {
  const std::string place = section.path.empty() ? "at the top level" : "in [" + section.path + "]";
  fail("config", unknown_name_message("key " + place, key, known));
}

void read_value(const Json& value, const std::string& key, const Field&, bool& out) {
  if (!value.is_boolean()) wrong_type(key, "true or false", value);
  out = value.get<bool>();
}

void read_value(const Json& value, const std::string& key, const Field& field, int64_t& out) {
  if (!value.is_number_integer()) wrong_type(key, "an integer", value);
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    wrong_type(key, "a 63-bit integer", value);
  }
  out = value.get<int64_t>();
  field.check(key, static_cast<double>(out));
}

void read_value(const Json& value, const std::string& key, const Field& field, double& out) {
  if (!value.is_number()) wrong_type(key, "a number", value);
  out = value.get<double>();
  field.check(key, out);
}

void read_value(const Json& value, const std::string& key, const Field& field, std::string& out) {
  // What a shell leaves of --set model.output="0" is an integer.
  if (!value.is_string() && !value.is_number_integer()) wrong_type(key, "a string", value);
  out = value.is_string() ? value.get<std::string>() : value.dump();
  field.check(key, out);
  if (field.is_path && !out.empty())
    out = std::filesystem::absolute(out).lexically_normal().string();
}

}  // namespace detail
}  // namespace espalier

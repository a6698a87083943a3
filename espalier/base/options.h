#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "espalier/base/error.h"

// One description of an options struct feeds everything: reading a configuration, writing the
// resolved one, --help and the reference page. A struct has defaults in its members and one
// function:
//
//   struct FedProxOptions {
//     double mu = 0.01;
//     template <class Self, class Visitor>
//     static void fields(Self& self, Visitor&& visit) {
//       visit("mu", self.mu, Field("Weight of the proximal term; 0 is FedAvg.").at_least(0));
//     }
//   };
//
// Member types: bool, int64_t, double, std::string and vectors of the last three.
namespace espalier {

using Json = nlohmann::ordered_json;

// What a person must know of one field, and the range that is checked when it is read.
class Field {
 public:
  explicit Field(std::string_view text) : doc(text) {}
  Field& at_least(double value) { return min = value, *this; }
  Field& at_most(double value) { return max = value, *this; }
  Field& above(double value) { return min = value, min_open = true, *this; }
  Field& below(double value) { return max = value, max_open = true, *this; }
  Field& one_of(std::initializer_list<std::string_view> names) {
    choices.assign(names.begin(), names.end());
    return *this;
  }

  // A file or folder: made absolute when it is read, so that what is kept means the same in any
  // working directory. Empty stays empty.
  Field& path() { return is_path = true, *this; }

  // What the option acts on is there; otherwise it may only have its default, since it would do
  // nothing: `what` then says what is missing ("train.optimizer = \"sgd\""). Several may be asked
  // for; the first that is missing is said.
  Field& needs(bool met, std::string_view what) {
    if (!met && missing.empty()) missing = what;
    return *this;
  }

  std::string_view doc;
  std::string_view missing;  // empty: the option has an effect
  bool is_path = false;
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool min_open = false, max_open = false;
  std::vector<std::string> choices;

  // Throws when `value` is outside the range or not finite; `key` is the dotted name.
  void check(const std::string& key, double value) const;
  void check(const std::string& key, const std::string& value) const;
};

// A table of a configuration and its dotted path ("train", "data.partition"; empty at the root).
struct ConfigSection {
  const Json* table = nullptr;  // null when the table is absent: every option keeps its default
  std::string path;

  std::string key(std::string_view name) const {
    return path.empty() ? std::string(name) : path + "." + std::string(name);
  }
  // The table called `name` inside this one, absent or present; an Error when it is not a table.
  ConfigSection section(std::string_view name) const;
};

namespace detail {

void read_value(const Json& value, const std::string& key, const Field& field, bool& out);
void read_value(const Json& value, const std::string& key, const Field& field, int64_t& out);
void read_value(const Json& value, const std::string& key, const Field& field, double& out);
void read_value(const Json& value, const std::string& key, const Field& field, std::string& out);

[[noreturn]] void wrong_type(const std::string& key, std::string_view expected, const Json& value);
[[noreturn]] void unknown_key(const ConfigSection& section, const std::string& key,
                              const std::vector<std::string>& known);

template <class T>
void read_value(const Json& value, const std::string& key, const Field& field,
                std::vector<T>& out) {
  if (!value.is_array()) wrong_type(key, "a list", value);
  out.clear();
  for (const Json& item : value) {
    T element{};
    read_value(item, key, field, element);
    out.push_back(std::move(element));
  }
}

template <class T>
std::string_view type_name() {
  if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (std::is_same_v<T, int64_t>)
    return "integer";
  else if constexpr (std::is_same_v<T, double>)
    return "number";
  else if constexpr (std::is_same_v<T, std::string>)
    return "string";
  else
    return "list";
}

}  // namespace detail

// Reads `section` into the given structs, which share its keys; a key that none of them has is an
// Error that names the nearest known one. `other_keys` are keys of the section that somebody else
// reads (sub-tables, for instance).
template <class... Options>
void read_options(const ConfigSection& section, const std::vector<std::string>& other_keys,
                  Options&... options) {
  if (section.table == nullptr) return;
  std::vector<std::string> known = other_keys;
  const auto read = [&](std::string_view name, auto& member, const Field& field) {
    known.emplace_back(name);
    if (const auto found = section.table->find(name); found != section.table->end()) {
      detail::read_value(*found, section.key(name), field, member);
    }
  };
  (Options::fields(options, read), ...);
  for (const auto& [key, value] : section.table->items()) {
    if (std::find(known.begin(), known.end(), key) == known.end())
      detail::unknown_key(section, key, known);
  }
}

// The resolved values, in the order of fields(), appended to `table`.
template <class Options>
void write_options(const Options& options, Json& table) {
  Options::fields(options, [&](std::string_view name, const auto& member, const Field&) {
    table[std::string(name)] = member;
  });
}

// The values that differ from their defaults, in the order of fields().
template <class Options>
Json changed_options(const Options& options) {
  Json all = Json::object(), defaults = Json::object(), changed = Json::object();
  write_options(options, all);
  write_options(Options{}, defaults);
  for (const auto& [name, value] : all.items()) {
    if (value != defaults[name]) changed[name] = value;
  }
  return changed;
}

// An option that was given and has no effect.
struct IdleOption {
  std::string name;
  Json value;
  std::string needs;
};
// Those of `options` that are not at their defaults although what they need is missing.
template <class Options>
std::vector<IdleOption> idle_options(const Options& options) {
  std::vector<IdleOption> idle;
  Json defaults = Json::object();
  write_options(Options{}, defaults);
  Options::fields(options, [&](std::string_view name, const auto& member, const Field& field) {
    Json value = member;
    if (!field.missing.empty() && value != defaults[std::string(name)])
      idle.push_back({std::string(name), std::move(value), std::string(field.missing)});
  });
  return idle;
}
// Throws Error for the first of them; `path` is the section's ("train").
void refuse_idle(const std::string& path, const std::vector<IdleOption>& idle);

// One row per field for --help and the reference page.
struct FieldHelp {
  std::string name, type, default_value, doc;
  bool is_path = false;
};
template <class Options>
std::vector<FieldHelp> describe_options() {
  std::vector<FieldHelp> rows;
  const Options defaults{};
  Options::fields(defaults, [&](std::string_view name, const auto& member, const Field& field) {
    using T = std::remove_cvref_t<decltype(member)>;
    std::string doc(field.doc);
    for (size_t i = 0; i < field.choices.size(); ++i)
      doc += (i == 0 ? " One of: " : ", ") + field.choices[i];
    rows.push_back({std::string(name), std::string(detail::type_name<T>()), Json(member).dump(),
                    doc, field.is_path});
  });
  return rows;
}

}  // namespace espalier

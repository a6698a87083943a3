#include "apps/figures.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "espalier/report/human.h"
#include "espalier/report/text_table.h"

namespace espalier::apps {

namespace {

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// With the unit that the name tells of; four digits are enough to compare by.
std::string cell(const std::string& key, const Json& value) {
  const auto has = [&](const char* part) { return key.find(part) != std::string::npos; };
  if (value.is_number()) {
    const auto number = value.get<double>();
    if (has("accuracy")) return report::human_percent(number);
    if (has("per_second")) return report::human_count(number);
    if (has("seconds")) return report::human_seconds(number);
    if (has("bytes")) return report::human_bytes(number);
    if (has("macs")) return report::human_count(number);
  }
  if (!value.is_number_float()) return text_of(value);
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.4g", value.get<double>());
  return text.data();
}

}  // namespace

void print_figures(const Json& figures, bool json) {
  if (json) {
    std::printf("%s\n", figures.dump().c_str());
    return;
  }
  for (const auto& [key, value] : figures.items()) {
    if (!value.is_structured() || (value.is_array() && !value.empty()))
      std::printf("%-20s %s\n", key.c_str(), cell(key, value).c_str());
  }
  if (!figures.contains("variants")) return;
  std::vector<std::vector<std::string>> rows = {{""}};
  std::vector<std::string> keys;  // of all variants, in the order in which they first appear
  for (const auto& [name, variant] : figures["variants"].items()) {
    rows[0].push_back(name);
    for (const auto& [key, value] : variant.items()) {
      if (value.is_object()) continue;
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  }
  for (const std::string& key : keys) {
    rows.push_back({key});
    for (const auto& [name, variant] : figures["variants"].items())
      rows.back().push_back(variant.contains(key) ? cell(name == "ratio" ? name : key, variant[key])
                                                  : "");
  }
  std::printf("\n%s", report::text_table(rows).c_str());
}

}  // namespace espalier::apps

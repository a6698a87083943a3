#include "espalier/codec/rules.h"

#include <algorithm>

namespace espalier::codec {

namespace {

// Whether a pattern says what kind of tensor is meant, whichever a layout has.
bool is_kind(std::string_view pattern) {
  constexpr Role kRoles[] = {Role::kWeight, Role::kBias, Role::kNorm, Role::kEmbedding,
                             Role::kStatistic};
  return pattern == "first" || pattern == "last" ||
         std::ranges::any_of(kRoles, [&](Role role) { return pattern == role_name(role); });
}

struct Group {
  std::vector<std::string> patterns;
  std::vector<Pipeline::Step> steps;
};

std::vector<std::string> read_patterns(const Json& table, const std::string& key) {
  const auto found = table.find("for");
  if (found == table.end()) return {};
  std::vector<std::string> patterns;
  const Json list = found->is_array() ? *found : Json::array({*found});
  for (const Json& item : list) {
    if (!item.is_string() || item.get<std::string>().empty())
      espalier::detail::wrong_type(key, "a name or a list of names", *found);
    patterns.push_back(item.get<std::string>());
  }
  if (patterns.empty()) espalier::detail::wrong_type(key, "a name or a list of names", *found);
  return patterns;
}

}  // namespace

PipelineRules::PipelineRules(const Json& tables, const std::string& path) {
  std::vector<Group> groups(1);  // the default pipeline comes first
  if (!tables.is_null() && !tables.is_array())
    espalier::detail::wrong_type(path, "a list of tables ([[" + path + "]])", tables);
  for (size_t i = 0; i < tables.size(); ++i) {
    const Json& table = tables[i];
    const std::string where = concat(path, ".", i);
    if (!table.is_object()) espalier::detail::wrong_type(where, "a table", table);
    const auto name = table.find("stage");
    if (name == table.end() || !name->is_string()) {
      fail("codec", "expected stage = \"…\" in every [[", path, "]] table, got none in number ",
           i + 1);
    }
    const StageRow& row = stage_row(name->get<std::string>());
    auto patterns = read_patterns(table, where + ".for");
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const Group& g) { return g.patterns == patterns; });
    if (group == groups.end()) group = groups.insert(groups.end(), Group{std::move(patterns), {}});
    group->steps.push_back({&row, row.resolve(ConfigSection{&table, where}, {"stage", "for"})});
  }

  pipelines_.emplace_back(std::vector<Pipeline::Step>{});
  for (Group& group : groups) {
    Pipeline pipeline(std::move(group.steps));
    const size_t position = pipeline.lossless() ? 0 : pipelines_.size();
    if (position > 0) pipelines_.push_back(std::move(pipeline));
    if (group.patterns.empty())
      default_ = position;
    else
      overrides_.push_back({std::move(group.patterns), position});
  }
}

std::vector<size_t> PipelineRules::choose(const ParameterLayout& layout) const {
  const auto& tensors = layout.tensors();
  size_t first = tensors.size(), last = tensors.size();
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (!is_compressed_role(tensors[t].role)) continue;
    if (first == tensors.size()) first = t;
    last = t;
  }
  std::vector<size_t> chosen(tensors.size(), 0);
  for (size_t t = 0; t < tensors.size(); ++t) {
    const ParameterInfo& tensor = tensors[t];
    if (tensor.role == Role::kCounter) continue;
    if (is_compressed_role(tensor.role) && tensor.size >= kMinCodedSize) chosen[t] = default_;
    const auto matches = [&](const std::string& pattern) {
      if (pattern == "first") return t == first;
      if (pattern == "last") return t == last;
      return pattern == role_name(tensor.role) || glob_match(pattern, tensor.name);
    };
    for (const Override& rule : overrides_) {
      if (std::ranges::any_of(rule.patterns, matches)) {
        chosen[t] = rule.pipeline;
        break;
      }
    }
  }
  return chosen;
}

std::vector<std::string> PipelineRules::idle_patterns(const ParameterLayout& layout) const {
  std::vector<std::string> idle;
  for (const Override& rule : overrides_) {
    for (const std::string& pattern : rule.patterns) {
      const bool matches = std::ranges::any_of(layout.tensors(), [&](const ParameterInfo& tensor) {
        return glob_match(pattern, tensor.name);
      });
      if (!matches && !is_kind(pattern)) idle.push_back(pattern);
    }
  }
  return idle;
}

std::string PipelineRules::describe() const {
  std::string text = pipelines_[default_].describe();
  for (const Override& rule : overrides_) {
    text += ";";
    for (size_t i = 0; i < rule.patterns.size(); ++i) text += (i > 0 ? "|" : "") + rule.patterns[i];
    text += "=" + pipelines_[rule.pipeline].describe();
  }
  return text;
}

bool glob_match(std::string_view pattern, std::string_view name) {
  // Greedy with one step back: a failed match is retried with the last * one character longer.
  size_t p = 0, n = 0, star = std::string_view::npos, retry = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p, ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace espalier::codec

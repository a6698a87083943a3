#include "espalier/study/study_config.h"

#include <algorithm>
#include <map>
#include <set>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/run/run_config.h"
#include "espalier/study/columns.h"

namespace espalier::study {

namespace fs = std::filesystem;

namespace {

struct VariantOptions {
  std::string name;
  std::string accuracy = "accuracy";

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("name", self.name, Field("What the table calls it."));
    visit("accuracy", self.accuracy, Field("Key of metrics.jsonl that is its accuracy."));
  }
};

void flatten(const Json& value, const std::string& path, std::vector<Assignment>& out) {
  if (!value.is_object()) {
    out.push_back({path, value});
    return;
  }
  for (const auto& [key, item] : value.items())
    flatten(item, path.empty() ? key : path + "." + key, out);
}

// One place of the grid: a value for each of its keys.
using Place = std::vector<Assignment>;

std::vector<Place> places_of(const Json& tree) {
  std::vector<Place> places = {{}};
  const ConfigSection grid = ConfigSection{&tree, ""}.section("grid");
  if (grid.table == nullptr) return places;
  for (const Assignment& axis : assignments_of(*grid.table)) {
    if (!axis.value.is_array() || axis.value.empty())
      fail("study", "expected a list of values for ", axis.key, " in [grid], got ",
           axis.value.dump());
    std::vector<Place> longer;
    for (const Place& place : places) {
      for (const Json& value : axis.value) {
        longer.push_back(place);
        longer.back().push_back({axis.key, value});
      }
    }
    places = std::move(longer);
  }
  return places;
}

// "lr = 0.1, keep = 0.5"
std::string name_of(const Place& place) {
  std::string name;
  for (const Assignment& at : place) {
    const std::string last = at.key.substr(at.key.rfind('.') + 1);
    const auto same = std::count_if(place.begin(), place.end(), [&](const Assignment& other) {
      return other.key.substr(other.key.rfind('.') + 1) == last;
    });
    const std::string value =
        at.value.is_string() ? at.value.get<std::string>() : to_toml_value(at.value);
    name += concat(name.empty() ? "" : ", ", same > 1 ? at.key : last, " = ", value);
  }
  return name;
}

// What a variant is before the grid multiplies it.
struct Row {
  VariantOptions options;
  std::vector<Assignment> set;
};

std::vector<Row> rows_of(const Json& tree) {
  const auto found = tree.find("variant");
  if (found == tree.end()) return {Row{}};
  if (!found->is_array()) fail("study", "expected tables [[variant]], got ", found->dump());
  std::vector<Row> rows;
  for (size_t i = 0; i < found->size(); ++i) {
    const Json& table = (*found)[i];
    const std::string path = concat("variant[", i, "]");
    if (!table.is_object()) fail("study", "expected a table [[variant]], got ", table.dump());
    Row& row = rows.emplace_back();
    const ConfigSection section{&table, path};
    read_options(section, {"set"}, row.options);
    if (row.options.name.empty()) fail("study", path, " needs a name");
    const ConfigSection set = section.section("set");
    if (set.table != nullptr) row.set = assignments_of(*set.table);
  }
  return rows;
}

std::vector<std::string> names_of(const std::vector<Variant>& variants) {
  std::vector<std::string> names;
  for (const Variant& variant : variants) names.push_back(variant.name);
  return names;
}

// Which variant each is compared with.
void find_baselines(const std::string& wanted, const std::vector<Row>& rows, size_t num_places,
                    std::vector<Variant>& variants) {
  if (wanted.empty()) return;  // the first for all
  for (size_t i = 0; i < variants.size(); ++i) {
    if (variants[i].name == wanted) {
      for (Variant& variant : variants) variant.baseline = i;
      return;
    }
  }
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].options.name != wanted) continue;
    for (size_t i = 0; i < variants.size(); ++i)
      variants[i].baseline = r * num_places + i % num_places;
    return;
  }
  fail("study", unknown_name_message("baseline", wanted, names_of(variants)));
}

// Seeds are the study's alone.
void refuse_seed(const std::vector<Assignment>& assignments, const std::string& where,
                 const fs::path& file) {
  for (const Assignment& one : assignments) {
    if (one.key == "seed")
      fail("study", where, " sets seed = ", one.value.dump(),
           ", but seeds are the study's own: seeds = [1, 2, 3] at the head of ", file.string());
  }
}

// Keeps the variants that are asked for, each by its name or a row at all places of the grid, and
// those that they are compared with.
void keep_only(const std::vector<std::string>& only, const std::vector<Row>& rows,
               size_t num_places, std::vector<Variant>& variants) {
  if (only.empty()) return;
  std::vector<std::string> names;
  if (num_places > 1)
    for (const Row& row : rows)
      if (!row.options.name.empty()) names.push_back(row.options.name);
  for (const Variant& variant : variants) names.push_back(variant.name);
  std::set<size_t> kept;
  for (const std::string& name : only) {
    if (std::find(names.begin(), names.end(), name) == names.end())
      fail("study", unknown_name_message("variant", name, names));
    std::vector<size_t> wanted;
    for (size_t i = 0; i < variants.size(); ++i)
      if (variants[i].name == name || rows[i / num_places].options.name == name)
        wanted.push_back(i);
    for (const size_t index : wanted) kept.insert({index, variants[index].baseline});
  }
  std::vector<Variant> some;
  for (const size_t index : kept) {
    some.push_back(variants[index]);
    some.back().baseline =
        static_cast<size_t>(std::distance(kept.begin(), kept.find(variants[index].baseline)));
  }
  variants = std::move(some);
}

// Reads every variant's configuration: a mistake shows now rather than in the middle of the night.
void check_variants(Study& study) {
  std::map<std::pair<std::string, std::string>, std::string> seen;
  for (Variant& variant : study.variants) {
    run::RunConfig config;
    try {
      config = run::read_run_config(
          variant_config(study, variant, study.seeds.front(), &variant.left_out));
      run::check_run_config(config);
    } catch (const Error& error) {
      fail("study", "variant '", variant.name, "': ", error.what());
    }
    // The same runs looked at by another accuracy are something else.
    const auto [found, is_new] =
        seen.emplace(std::pair(config.resolved.dump(), variant.accuracy_key), variant.name);
    if (!is_new) {
      fail("study", "variants '", found->second, "' and '", variant.name,
           "' are the same configuration; leave one out");
    }
  }
}

}  // namespace

std::vector<Assignment> assignments_of(const Json& table) {
  std::vector<Assignment> out;
  flatten(table, "", out);
  return out;
}

Json variant_config(const Study& study, const Variant& variant, int64_t seed,
                    std::vector<std::string>* left_out) {
  Json tree = study.base;
  const std::vector<std::string> notes = run::override_config(tree, variant.set);
  if (left_out != nullptr) left_out->insert(left_out->end(), notes.begin(), notes.end());
  tree["seed"] = seed;
  return tree;
}

Study read_study(const fs::path& file, const std::vector<std::string>& only,
                 const std::vector<std::string>& assignments) {
  Study study;
  study.file = file;
  study.only = only;
  study.assignments = assignments;
  study.text = read_text_file(file);
  const Json tree = parse_toml(study.text, file.string());
  read_options({&tree, ""}, {"set", "grid", "variant"}, study.options);
  StudyOptions& options = study.options;
  if (options.name.empty()) options.name = file.stem().string();
  if (options.base.empty()) {
    fail("study", "expected base = \"FILE.toml\", the configuration that the variants begin with (",
         file.string(), ")");
  }
  study.base = read_toml_file(file.parent_path() / options.base);
  if (options.seeds.empty()) fail("study", "expected at least one seed (", file.string(), ")");
  study.seeds = options.seeds;
  std::sort(study.seeds.begin(), study.seeds.end());
  if (std::adjacent_find(study.seeds.begin(), study.seeds.end()) != study.seeds.end())
    fail("study", "a seed is named twice in seeds = ", Json(options.seeds).dump());
  std::sort(options.targets.begin(), options.targets.end());
  check_columns(options.columns);

  const ConfigSection shared = ConfigSection{&tree, ""}.section("set");
  if (shared.table != nullptr) {
    const auto set = assignments_of(*shared.table);
    refuse_seed(set, "[set]", file);
    run::override_config(study.base, set);
  }
  for (const std::string& text : assignments)
    refuse_seed({parse_assignment(text)}, concat("--set ", text), file);
  run::override_config(study.base, assignments);
  const std::vector<Row> rows = rows_of(tree);
  for (const Row& row : rows)
    refuse_seed(row.set, concat("variant '", row.options.name, "'"), file);
  const std::vector<Place> places = places_of(tree);
  for (const Place& place : places) refuse_seed(place, "[grid]", file);
  for (const Row& row : rows) {
    for (const Place& place : places) {
      Variant& variant = study.variants.emplace_back();
      const std::string at = name_of(place);
      variant.name = row.options.name + (row.options.name.empty() || at.empty() ? "" : ", ") + at;
      if (variant.name.empty()) variant.name = options.name;
      variant.accuracy_key = row.options.accuracy;
      for (const auto& part : {place, row.set})
        variant.set.insert(variant.set.end(), part.begin(), part.end());
    }
  }
  const auto names = names_of(study.variants);
  for (size_t i = 0; i < names.size(); ++i) {
    if (std::count(names.begin(), names.end(), names[i]) > 1)
      fail("study", "two variants are called '", names[i], "'");
  }
  find_baselines(options.baseline, rows, places.size(), study.variants);
  keep_only(only, rows, places.size(), study.variants);
  check_variants(study);
  return study;
}

}  // namespace espalier::study

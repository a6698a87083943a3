#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "espalier/base/config.h"
#include "espalier/base/options.h"

// A study as its file says it (docs/study.md): variants of one configuration, each with the same
// seeds. Everything that can be wrong without running is found here.
namespace espalier::study {

// What a file says at its top level besides [set], [grid] and [[variant]].
struct StudyOptions {
  std::string name;
  std::string description;
  std::string base;
  std::vector<int64_t> seeds = {1, 2, 3};
  std::string baseline;
  std::string compare = "accuracy";
  std::vector<double> targets;
  std::vector<std::string> columns = {"accuracy", "difference", "bytes", "macs", "time", "targets"};

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("name", self.name, Field("What the study is called; empty: the name of its file."));
    visit("description", self.description, Field("A line for the head of the page."));
    visit("base", self.base,
          Field("Configuration that all variants begin with, relative to the study's file."));
    visit("seeds", self.seeds, Field("Every variant runs with each of them.").at_least(0));
    visit("baseline", self.baseline,
          Field("Variant that the others are compared with; empty: the first. With a [grid], a "
                "variant's name means the one at the same place of the grid."));
    visit("compare", self.compare,
          Field("Accuracy of a run that differences and the Pareto front speak of: of the last "
                "evaluation, the mean of the last five, or the best.")
              .one_of({"accuracy", "last5", "best"}));
    visit("targets", self.targets,
          Field("Accuracies, as fractions; rounds, bytes and products to each are counted.")
              .above(0)
              .at_most(1));
    visit("columns", self.columns,
          Field("Columns of the table, in this order; `summary.KEY` and `metrics.KEY` show any "
                "number of summary.json and of the last line of metrics.jsonl that has it."));
  }
};

// One row of the table.
struct Variant {
  std::string name;
  std::vector<Assignment> set;  // its place of the grid and its own
  // Key of the lines of metrics that is this variant's accuracy.
  std::string accuracy_key = "accuracy";
  size_t baseline = 0;  // index of the variant that it is compared with, itself perhaps
  // What the base says for its own choice of model, data, partition or strategy and goes here.
  std::vector<std::string> left_out;
};

struct Study {
  StudyOptions options;
  std::filesystem::path file;
  std::string text;  // of the file
  Json base;         // tree of the base configuration with the study's [set]
  std::vector<Variant> variants;
  std::vector<int64_t> seeds;  // in increasing order, each once
  // What the command line asked for besides the file.
  std::vector<std::string> only, assignments;
};

// Throws Error that names the variant and the key. `only`: names of variants to keep, with their
// baselines; empty: all. `assignments` ("key=value") count as the last of the file's [set].
Study read_study(const std::filesystem::path& file, const std::vector<std::string>& only = {},
                 const std::vector<std::string>& assignments = {});

// The base with a variant's assignments, not yet checked. Appends to `left_out` when it is not
// null.
Json variant_config(const Study& study, const Variant& variant, int64_t seed,
                    std::vector<std::string>* left_out = nullptr);

// A table of dotted keys as assignments: "a.b" = 1 and a.b = 1 are the same, lists are values.
std::vector<Assignment> assignments_of(const Json& table);

}  // namespace espalier::study

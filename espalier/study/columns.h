#pragma once

#include <string>
#include <vector>

#include "espalier/study/results.h"

// The columns of a study's table. Some stand for several: one per target.
namespace espalier::study {

// Throws Error for a name that is none, with the nearest one.
void check_columns(const std::vector<std::string>& names);

// Every name with what it shows, for --help and docs/study.md.
struct ColumnHelp {
  std::string name, doc;
};
std::vector<ColumnHelp> describe_columns();

// Header and one row per variant: its name, the study's columns, and of how many seeds they speak.
// The same cells give the same table, in whatever order and by however many jobs they were run.
std::vector<std::vector<std::string>> table_of(const Study& study, const Results& results);

// The same for a document, and for a terminal (report/text_table.h) with the notes below.
std::string table_markdown(const Study& study, const Results& results);
std::string table_text(const Study& study, const Results& results);

// "2 of 3"; "3" when none is missing.
std::string share_text(size_t some, size_t all);

}  // namespace espalier::study

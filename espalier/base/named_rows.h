#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "espalier/base/error.h"

namespace espalier {

// The row of a table (codecs, partitions, …) whose `name` is this one; else an Error from `where`
// that lists the names of this `kind` and the nearest one.
template <class Rows>
const auto& find_row(const Rows& rows, std::string_view name, std::string_view where,
                     std::string_view kind) {
  std::vector<std::string> known;
  for (const auto& row : rows) {
    if (row.name == name) return row;
    known.push_back(row.name);
  }
  fail(where, unknown_name_message(kind, name, known));
}

}  // namespace espalier

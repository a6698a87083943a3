#include "espalier/client/algorithm.h"

#include "espalier/base/error.h"

namespace espalier::client {

const AlgorithmRow& find_algorithm(AlgorithmTable table, const std::string& name) {
  std::vector<std::string> known;
  for (const AlgorithmRow& row : table) {
    if (row.name == name) return row;
    known.push_back(row.name);
  }
  fail("client/task", unknown_name_message("client algorithm", name, known));
}

}  // namespace espalier::client

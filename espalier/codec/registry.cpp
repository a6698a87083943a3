#include "espalier/codec/registry.h"

namespace espalier::codec {

StageRow identity_row();

const std::vector<StageRow>& stage_rows() {
  static const std::vector<StageRow> rows = {
      identity_row(),
  };
  return rows;
}

const StageRow& stage_row(std::string_view name) {
  std::vector<std::string> known;
  for (const StageRow& row : stage_rows()) {
    if (row.name == name) return row;
    known.push_back(row.name);
  }
  fail("codec", unknown_name_message("stage", name, known));
}

const StageRow& stage_row(uint8_t wire_id, std::string_view where) {
  for (const StageRow& row : stage_rows()) {
    if (row.wire_id == wire_id) return row;
  }
  fail(where, "unknown stage number ", int{wire_id}, "; the sender may be a newer version");
}

}  // namespace espalier::codec

#include "espalier/codec/registry.h"

#include "espalier/base/named_rows.h"

namespace espalier::codec {

// One row per stage_<name>.cpp.
StageRow identity_row();
StageRow hadamard_row();
StageRow kashin_row();
StageRow subsample_row();
StageRow quantize_row();
StageRow eden_row();
StageRow dithered_row();
StageRow trellis_row();
StageRow topk_row();
StageRow randomk_row();
StageRow cast_row();

const std::vector<StageRow>& stage_rows() {
  // clang-format off
  static const std::vector<StageRow> rows = {
      identity_row(),
      hadamard_row(),
      kashin_row(),
      subsample_row(),
      topk_row(),
      randomk_row(),
      quantize_row(),
      eden_row(),
      dithered_row(),
      trellis_row(),
      cast_row(),
  };
  // clang-format on
  return rows;
}

const StageRow& stage_row(std::string_view name) {
  return find_row(stage_rows(), name, "codec", "stage");
}

const StageRow& stage_row(uint8_t wire_id, std::string_view where) {
  for (const StageRow& row : stage_rows()) {
    if (row.wire_id == wire_id) return row;
  }
  fail(where, "unknown stage number ", int{wire_id}, "; the sender may be a newer version");
}

void check_block(std::string_view stage, int64_t block) {
  if (block != 0 && block != 1024 && block != 2048 && block != 4096) {
    fail(concat("codec/", stage), "expected block = 0 (the whole tensor), 1024, 2048 or 4096, got ",
         block);
  }
}

}  // namespace espalier::codec

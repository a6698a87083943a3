#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "espalier/params/layout.h"

// Which coordinates of a full buffer a smaller buffer holds, for layouts that differ in their
// numbers of units. Every tensor is seen as a matrix (its first axis by all others), and keeping
// units keeps some of its rows and, in every row, the same columns; so a map costs one index per
// kept row and per kept column, and not one per value.
namespace espalier {

class CoordinateMap {
 public:
  // Adjacent columns that are kept together: small columns [small, small + count) are full columns
  // [full, full + count).
  struct Run {
    uint32_t full = 0, small = 0, count = 0;
  };

  // The kept part of one tensor: value (i, j) of the small matrix is value (rows[i], columns[j]) of
  // the full one. Increasing numbers. A tensor of rank 0 or 1 is one row.
  struct Block {
    size_t full_offset = 0, full_rows = 0, full_columns = 0;
    size_t small_offset = 0;
    std::vector<uint32_t> rows, columns;
    // The columns once more, as runs; empty when runs are so short that single columns are faster.
    std::vector<Run> runs;

    bool whole_rows() const { return columns.size() == full_columns; }
    bool whole() const { return whole_rows() && rows.size() == full_rows; }
  };

  // kept[g]: the kept units of group g of `full`, increasing, at least one. `small` is
  // narrow_layout(full, sizes of kept). Throws Error on other unit numbers and on a tensor of more
  // than 2^32 - 1 rows or columns.
  CoordinateMap(const ParameterLayout& full, const ParameterLayout& small,
                const std::vector<std::vector<uint32_t>>& kept);

  size_t full_size() const { return full_size_; }
  size_t small_size() const { return small_size_; }
  // One per tensor, in order of offset; together they cover the small buffer.
  const std::vector<Block>& blocks() const { return blocks_; }

  // small[i] = full[map(i)], and full[map(i)] = small[i] with all other values left alone.
  void gather(std::span<const float> full, std::span<float> small) const;
  void scatter(std::span<const float> small, std::span<float> full) const;

 private:
  size_t full_size_ = 0, small_size_ = 0;
  std::vector<Block> blocks_;
};

}  // namespace espalier

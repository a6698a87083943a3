#include "espalier/params/coordinate_map.h"

#include <cstring>
#include <limits>

#include "espalier/base/error.h"

namespace espalier {
namespace {

// A run of at least this many columns, on average, is copied as a whole.
constexpr size_t kLongRun = 12;

void check_kept(const ParameterLayout& full, const std::vector<std::vector<uint32_t>>& kept) {
  const auto& groups = full.groups();
  if (kept.size() != groups.size()) {
    fail("params/coordinate_map", "expected kept units of ", groups.size(), " groups, got ",
         kept.size());
  }
  for (size_t g = 0; g < kept.size(); ++g) {
    int64_t next = 0;  // the smallest number that may follow
    for (const uint32_t unit : kept[g]) {
      if (unit < next || unit >= groups[g].size) {
        fail("params/coordinate_map", "expected increasing unit numbers below ", groups[g].size,
             " of '", groups[g].name, "', got ", unit, next > 0 ? concat(" after ", next - 1) : "");
      }
      next = int64_t{unit} + 1;
    }
    if (next == 0) fail("params/coordinate_map", "no unit of '", groups[g].name, "' is kept");
  }
}

// The kept indices of one axis: all but those of dropped units.
std::vector<uint32_t> kept_indices(const ParameterInfo& tensor, size_t axis,
                                   const std::vector<std::vector<uint32_t>>& kept,
                                   const ParameterLayout& full) {
  const auto extent = static_cast<size_t>(tensor.shape[axis]);
  std::vector<bool> keep(extent, true);
  for (const AxisUnits& part : tensor.units) {
    if (static_cast<size_t>(part.axis) != axis) continue;
    const auto group = static_cast<size_t>(part.group);
    const auto repeat = static_cast<size_t>(part.repeat);
    const auto size = static_cast<size_t>(full.groups()[group].size);
    auto index = keep.begin() + part.offset;
    for (int64_t block = 0; block < part.blocks; ++block) {
      auto next = kept[group].begin();
      for (size_t unit = 0; unit < size; ++unit) {
        const bool stays = next != kept[group].end() && *next == unit;
        if (stays) ++next;
        for (size_t i = 0; i < repeat; ++i) *index++ = stays;
      }
    }
  }
  std::vector<uint32_t> indices;
  for (size_t i = 0; i < extent; ++i) {
    if (keep[i]) indices.push_back(static_cast<uint32_t>(i));
  }
  return indices;
}

// The columns made of two axes: outer index × extent of the inner axis + inner index.
std::vector<uint32_t> combine(const std::vector<uint32_t>& outer,
                              const std::vector<uint32_t>& inner, size_t extent) {
  std::vector<uint32_t> columns;
  columns.reserve(outer.size() * inner.size());
  for (const uint32_t i : outer) {
    for (const uint32_t j : inner) columns.push_back(static_cast<uint32_t>(i * extent + j));
  }
  return columns;
}

std::vector<CoordinateMap::Run> runs_of(const std::vector<uint32_t>& columns) {
  std::vector<CoordinateMap::Run> runs;
  for (uint32_t j = 0; j < columns.size(); ++j) {
    if (j > 0 && columns[j] == columns[j - 1] + 1) {
      ++runs.back().count;
    } else {
      runs.push_back({columns[j], j, 1});
    }
  }
  if (runs.size() * kLongRun > columns.size()) return {};
  return runs;
}

CoordinateMap::Block make_block(const ParameterInfo& tensor, const ParameterInfo& narrowed,
                                const std::vector<std::vector<uint32_t>>& kept,
                                const ParameterLayout& full) {
  const size_t rank = tensor.shape.size();
  CoordinateMap::Block block;
  block.full_offset = static_cast<size_t>(tensor.offset);
  block.small_offset = static_cast<size_t>(narrowed.offset);
  block.full_rows = rank < 2 ? 1 : static_cast<size_t>(tensor.shape[0]);
  block.full_columns = 1;
  for (size_t axis = rank < 2 ? 0 : 1; axis < rank; ++axis)
    block.full_columns *= static_cast<size_t>(tensor.shape[axis]);
  constexpr size_t kMost = std::numeric_limits<uint32_t>::max();
  if (block.full_rows > kMost || block.full_columns > kMost) {
    fail("params/coordinate_map", "'", tensor.name, "' of shape ", shape_text(tensor.shape),
         " has too many rows or columns for a sub-model; keep it whole by using no sub-models");
  }
  block.rows = rank < 2 ? std::vector<uint32_t>{0} : kept_indices(tensor, 0, kept, full);
  block.columns = {0};
  for (size_t axis = rank < 2 ? 0 : 1; axis < rank; ++axis) {
    block.columns = combine(block.columns, kept_indices(tensor, axis, kept, full),
                            static_cast<size_t>(tensor.shape[axis]));
  }
  block.runs = runs_of(block.columns);
  ESPALIER_CHECK(block.rows.size() * block.columns.size() == static_cast<size_t>(narrowed.size),
                 tensor.name, " ", shape_text(narrowed.shape));
  return block;
}

void gather_row(const float* __restrict full, const uint32_t* __restrict columns,
                float* __restrict small, size_t count) {
  for (size_t j = 0; j < count; ++j) small[j] = full[columns[j]];
}

// Rows follow each other at random distances, which the processor cannot foresee.
void prefetch(const float* row, size_t columns) {
  constexpr size_t kLine = 16;
  for (size_t j = 0; j < columns; j += kLine) __builtin_prefetch(row + j);
}

void scatter_row(const float* __restrict small, const uint32_t* __restrict columns,
                 float* __restrict full, size_t count) {
  for (size_t j = 0; j < count; ++j) full[columns[j]] = small[j];
}

void copy(float* to, const float* from, size_t count) {
  if (count > 0) std::memcpy(to, from, count * sizeof(float));
}

// For runs, which are mostly too short to be worth a call: eights, the last one over the one
// before.
void copy_run(float* to, const float* from, size_t count) {
  constexpr size_t kStep = 8, kMost = 256;
  if (count < kStep || count > kMost) return copy(to, from, count);
  for (size_t i = 0; i + kStep <= count; i += kStep)
    std::memcpy(to + i, from + i, kStep * sizeof(float));
  std::memcpy(to + count - kStep, from + count - kStep, kStep * sizeof(float));
}

}  // namespace

CoordinateMap::CoordinateMap(const ParameterLayout& full, const ParameterLayout& small,
                             const std::vector<std::vector<uint32_t>>& kept)
    : full_size_(static_cast<size_t>(full.size())), small_size_(static_cast<size_t>(small.size())) {
  check_kept(full, kept);
  ESPALIER_CHECK(full.tensors().size() == small.tensors().size());
  for (size_t t = 0; t < full.tensors().size(); ++t)
    blocks_.push_back(make_block(full.tensors()[t], small.tensors()[t], kept, full));
}

void CoordinateMap::gather(std::span<const float> full, std::span<float> small) const {
  ESPALIER_CHECK(full.size() == full_size_ && small.size() == small_size_, full.size(), " ",
                 small.size());
  for (const Block& block : blocks_) {
    const float* const from = full.data() + block.full_offset;
    float* to = small.data() + block.small_offset;
    const size_t count = block.columns.size();
    if (block.whole()) {
      copy(to, from, block.full_rows * block.full_columns);
      continue;
    }
    for (size_t r = 0; r < block.rows.size(); ++r) {
      const float* const row = from + block.rows[r] * block.full_columns;
      if (r + 1 < block.rows.size())
        prefetch(from + block.rows[r + 1] * block.full_columns, block.full_columns);
      if (block.runs.empty()) {
        gather_row(row, block.columns.data(), to, count);
      } else {
        for (const Run& run : block.runs) copy_run(to + run.small, row + run.full, run.count);
      }
      to += count;
    }
  }
}

void CoordinateMap::scatter(std::span<const float> small, std::span<float> full) const {
  ESPALIER_CHECK(full.size() == full_size_ && small.size() == small_size_, full.size(), " ",
                 small.size());
  for (const Block& block : blocks_) {
    const float* from = small.data() + block.small_offset;
    float* const to = full.data() + block.full_offset;
    const size_t count = block.columns.size();
    if (block.whole()) {
      copy(to, from, block.full_rows * block.full_columns);
      continue;
    }
    for (const uint32_t i : block.rows) {
      float* const row = to + i * block.full_columns;
      if (block.runs.empty()) {
        scatter_row(from, block.columns.data(), row, count);
      } else {
        for (const Run& run : block.runs) copy_run(row + run.full, from + run.small, run.count);
      }
      from += count;
    }
  }
}

}  // namespace espalier

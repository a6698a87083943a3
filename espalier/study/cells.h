#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "espalier/study/study_config.h"

// The cells of a study: one run for each variant and seed, and the folders in which they lie,
// STUDY/cells/<variant>-seed<seed>-<configuration>-<build>.
//
// A folder is recognized by what is in it, not by its name: by the resolved configuration in its
// config.toml, every key of it and the contents of files that it names, and by the build that wrote
// it (base/version.h). A changed configuration therefore never passes for an old result, and a
// variant that gets another name keeps its runs.
namespace espalier::study {

struct Cell {
  std::vector<size_t> variants;  // indices; several look at the same run by other accuracies
  int64_t seed = 0;
  Json config;  // resolved
  uint64_t rounds = 0;
  std::string identity;  // of the configuration: 16 hexadecimal digits
  std::string name;      // of a new folder
  std::string label;     // for people: "dropout .75, seed 2"
};

// Seed by seed, so that an unfinished study has all variants of the first seeds.
std::vector<Cell> cells_of(const Study& study, std::string_view build);

// `inputs`: a run's folder of copies, which stand for the files that the configuration names;
// empty: the files themselves.
std::string identity_of(const Json& resolved, const std::filesystem::path& inputs = {});

// Those of shard `index` of `count`, 1-based: cell number c belongs to shard c mod count + 1.
struct Shard {
  size_t index = 1, count = 1;
};
// "2/3"; throws Error for anything else.
Shard parse_shard(const std::string& text);
bool belongs(size_t cell, const Shard& shard);

enum class CellState { kNew, kBegun, kDone };

// What a study's folder has of a cell.
struct Found {
  CellState state = CellState::kNew;
  std::filesystem::path folder;  // where it is, or will be
  uint64_t rounds_done = 0;
  double wall_seconds = 0;     // of these rounds
  std::string version, build;  // that wrote it
  std::string why;             // of a new one: why a folder that looks like it does not count
};

// One for each cell. `any_build`: finished runs of other builds count too, where this one has none.
std::vector<Found> find_cells(const std::vector<Cell>& cells, const std::filesystem::path& study,
                              std::string_view build, bool any_build);

// How far a run is, by its metrics.
struct Progress {
  uint64_t rounds = 0;
  double wall_seconds = 0;
};
Progress progress_of(const std::filesystem::path& run);

}  // namespace espalier::study

#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "espalier/base/file.h"
#include "espalier/study/cells.h"

namespace espalier::study {

// The folder that a study fills, and the only place that knows the names in it:
//
// - study.toml: the study's file as it was run last
// - cells/: a run folder for each variant and seed (cells.h), of earlier versions of the study too
// - logs/: what each of them wrote on standard error, and in CELL.failed why one that failed did
// - starting/: configurations of those that are running, and what the ranks of an MPI job look at
//   to know that they see this folder
// - study.json: everything that was found; rewritten whenever `espalier study` ends
// - study.html: the page
// - shard-1-of-1.lock: held while a process runs cells; one per shard
class StudyFolder {
 public:
  // Makes the folder, or takes one that is a study's, holds cells/ or is empty; refuses anything
  // else.
  static StudyFolder create(const std::filesystem::path& path, const Study& study);
  // One that has cells; throws Error otherwise. Nothing is written.
  static StudyFolder open(const std::filesystem::path& path);
  // To look only: nothing is written and the folder need not be there.
  explicit StudyFolder(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path json_path() const { return path_ / "study.json"; }
  std::filesystem::path page_path() const { return path_ / "study.html"; }
  std::filesystem::path log(const std::string& cell) const {
    return path_ / "logs" / (cell + ".log");
  }
  // Why a cell failed, until it is tried again: for whoever prints the table, other shards
  // included.
  std::filesystem::path failure(const std::string& cell) const {
    return path_ / "logs" / (cell + ".failed");
  }
  // Of the cells that are not done, by index.
  std::map<size_t, std::string> failures(const std::vector<Found>& found) const;
  std::filesystem::path queued(const std::string& cell) const {
    return path_ / "starting" / (cell + ".toml");
  }

  // A file for the ranks of the job that runs this shard (rank_places.h).
  std::filesystem::path sign(const Shard& shard) const;

  // Throws Error that names the process which runs this shard already.
  FileLock lock(const Shard& shard) const;

 private:
  std::filesystem::path path_;
};

}  // namespace espalier::study

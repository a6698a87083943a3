#include "espalier/study/study_folder.h"

#include "espalier/base/error.h"
#include "espalier/report/run_folder.h"

namespace espalier::study {

namespace fs = std::filesystem;

StudyFolder StudyFolder::create(const fs::path& path, const Study& study) {
  StudyFolder folder(fs::absolute(path).lexically_normal());
  const fs::path copy = folder.path_ / "study.toml";
  std::error_code error;
  if (report::RunFolder::is_run(path))
    fail("study", path.string(), " holds a single run; choose another --out");
  if (fs::exists(path, error) && !fs::is_directory(path, error))
    fail("study", "expected a folder for the study, got a file: ", path.string(),
         "; choose another --out");
  const bool ours = fs::exists(copy, error) || fs::is_directory(folder.path_ / "cells", error);
  if (fs::exists(path, error) && !ours && !fs::is_empty(path, error))
    fail("study", path.string(), " is not empty and is not a study's; choose another --out");
  for (const char* part : {"cells", "logs", "starting"}) make_folder(folder.path_ / part);
  write_text_file_atomic(copy, study.text);
  return folder;
}

StudyFolder StudyFolder::open(const fs::path& path) {
  StudyFolder folder(fs::absolute(path).lexically_normal());
  std::error_code error;
  if (!fs::is_directory(folder.path_ / "cells", error))
    fail("study", "no study has been run in ", path.string(), "; call without --no-run first");
  return folder;
}

std::map<size_t, std::string> StudyFolder::failures(const std::vector<Found>& found) const {
  std::map<size_t, std::string> failures;
  for (size_t c = 0; c < found.size(); ++c) {
    const fs::path said = failure(found[c].folder.filename().string());
    std::error_code error;
    if (found[c].state == CellState::kDone || !fs::exists(said, error)) continue;
    try {
      failures[c] = read_text_file(said);
    } catch (const Error&) {
      // Gone: somebody tries the cell again.
    }
  }
  return failures;
}

namespace {

std::string name_of(const Shard& shard) {
  return concat("shard-", shard.index, "-of-", shard.count);
}

}  // namespace

fs::path StudyFolder::sign(const Shard& shard) const {
  return path_ / "starting" / (name_of(shard) + ".sign");
}

FileLock StudyFolder::lock(const Shard& shard) const {
  std::string holder;
  auto lock = FileLock::try_take(path_ / (name_of(shard) + ".lock"), holder);
  if (!lock)
    fail("study", "the study in ", path_.string(), " is being run by ", holder,
         "; wait for it or stop it");
  return std::move(*lock);
}

}  // namespace espalier::study

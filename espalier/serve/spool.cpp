#include "espalier/serve/spool.h"

#include <cinttypes>
#include <cstdio>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier::serve {

namespace fs = std::filesystem;

namespace {

std::string name_of(const Spool::Id& id) {
  return concat(id.round, "-", id.exchange, "-", id.client);
}

}  // namespace

Spool::Spool(const fs::path& folder, uint64_t max_bytes)
    : arriving_(folder / "arriving"), kept_(folder / "kept"), max_bytes_(max_bytes) {
  std::error_code ignored;
  fs::remove_all(arriving_, ignored);
  make_folder(arriving_);
  make_folder(kept_);
  for (const auto& entry : fs::directory_iterator(kept_)) {
    Id id;
    Kept kept{entry.path(), 0, 0, 0};
    const std::string name = entry.path().filename().string();
    int end = 0;
    const int found = std::sscanf(
        name.c_str(), "%" SCNu32 "-%" SCNu32 "-%" SCNu64 "-%16" SCNx64 "-%16" SCNx64 "%n",
        &id.round, &id.exchange, &id.client, &kept.task_digest, &kept.digest, &end);
    if (found != 5 || static_cast<size_t>(end) != name.size()) continue;  // not ours
    kept.bytes = entry.file_size(ignored);
    bytes_ += kept.bytes;
    entries_[id] = kept;
  }
}

fs::path Spool::arriving(const Id& id) const { return arriving_ / name_of(id); }

void Spool::discard(const Id& id) {
  std::error_code ignored;
  fs::remove(arriving(id), ignored);
}

void Spool::keep(const Id& id, uint64_t task_digest, uint64_t digest) {
  char digests[40];
  std::snprintf(digests, sizeof digests, "-%016" PRIx64 "-%016" PRIx64, task_digest, digest);
  const fs::path file = kept_ / (name_of(id) + digests);
  std::error_code failed;
  const uint64_t bytes = fs::file_size(arriving(id), failed);
  if (!failed) fs::rename(arriving(id), file, failed);
  if (failed) {
    discard(id);
    return;
  }
  const std::lock_guard lock(mutex_);
  if (const auto old = entries_.find(id); old != entries_.end()) {
    bytes_ -= old->second.bytes;
    if (old->second.file != file) fs::remove(old->second.file, failed);
  }
  entries_[id] = {file, task_digest, digest, bytes};
  bytes_ += bytes;
  while (bytes_ > max_bytes_ && !entries_.empty()) remove(entries_.begin());
}

std::optional<Spool::Kept> Spool::kept(const Id& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  return found == entries_.end() ? std::nullopt : std::optional(found->second);
}

void Spool::drop(const Id& id) {
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(id); found != entries_.end()) remove(found);
}

void Spool::forget_through(uint32_t round) {
  const std::lock_guard lock(mutex_);
  while (!entries_.empty() && entries_.begin()->first.round <= round) remove(entries_.begin());
}

void Spool::forget_after(uint32_t round, uint64_t client) {
  const std::lock_guard lock(mutex_);
  for (auto entry = entries_.upper_bound({round, UINT32_MAX, UINT64_MAX});
       entry != entries_.end();) {
    const auto current = entry++;
    if (current->first.client == client) remove(current);
  }
}

uint64_t Spool::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

// With the mutex held.
void Spool::remove(std::map<Id, Kept>::iterator entry) {
  std::error_code ignored;
  fs::remove(entry->second.file, ignored);
  bytes_ -= entry->second.bytes;
  entries_.erase(entry);
}

}  // namespace espalier::serve

#include "espalier/strategy/spill_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "espalier/base/error.h"

namespace espalier::strategy {
namespace {

template <class... Parts>
[[noreturn]] void storage_failed(const std::string& advice, const Parts&... parts) {
  const int reason = errno;
  throw StorageError(concat("[strategy/spill] ", parts..., ": ", std::strerror(reason),
                            "; free space there, or ", advice));
}

}  // namespace

SpillFile::SpillFile(const std::filesystem::path& folder, std::string what, std::string advice)
    : what_(std::move(what)), advice_(std::move(advice)) {
  try {
    path_ = (folder.empty() ? std::filesystem::temp_directory_path() : folder) /
            "espalier-spill-XXXXXX";
    if (!folder.empty()) std::filesystem::create_directories(folder);
  } catch (const std::filesystem::filesystem_error& error) {
    throw StorageError(concat("[strategy/spill] no folder for ", what_, ": ", error.what()));
  }
  file_ = ::mkostemp(path_.data(), O_CLOEXEC);
  if (file_ < 0) storage_failed(advice_, "cannot create ", path_);
  ::unlink(path_.c_str());
}

SpillFile::~SpillFile() { ::close(file_); }

uint64_t SpillFile::write(std::span<const uint8_t> bytes) {
  const uint64_t size = bytes.size();
  const auto hole = holes_.lower_bound(size);
  const uint64_t offset = hole == holes_.end() ? end_ : hole->second;
  for (uint64_t at = offset; !bytes.empty();) {
    const ssize_t wrote = ::pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) storage_failed(advice_, "cannot write ", what_, " to ", path_);
    at += static_cast<uint64_t>(wrote);
    bytes = bytes.subspan(static_cast<size_t>(wrote));
  }
  if (hole == holes_.end()) {
    end_ += size;
  } else {
    const uint64_t left = hole->first - size;
    holes_.erase(hole);
    if (left > 0) holes_.emplace(left, offset + size);
  }
  live_ += size;
  return offset;
}

void SpillFile::release(uint64_t offset, uint64_t size) {
  holes_.emplace(size, offset);
  live_ -= size;
  if (live_ > 0) return;
  holes_.clear();
  end_ = 0;
  // Only to give the room back; the file works without.
  if (::ftruncate(file_, 0) != 0) return;
}

void SpillFile::read(uint64_t offset, std::span<uint8_t> out) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(file_, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) errno = EIO;  // the file is shorter than what was written
    if (got <= 0) storage_failed(advice_, what_, " kept on disk cannot be read");
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
}

}  // namespace espalier::strategy

#include "espalier/base/file_writer.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "espalier/base/error.h"

namespace espalier {

namespace {

[[noreturn]] void throw_reason(const std::filesystem::path& path) {
  throw StorageError(
      concat("[base/file] cannot write ", path.string(), ": ", std::strerror(errno)));
}

}  // namespace

FileWriter::FileWriter(std::filesystem::path path, bool fresh)
    : path_(std::move(path)),
      descriptor_(
          ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | (fresh ? O_TRUNC : 0), 0600)) {
  if (descriptor_ < 0) throw_reason(path_);
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

FileWriter::FileWriter(FileWriter&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

void FileWriter::write(uint64_t offset, std::span<const std::span<const uint8_t>> pieces) {
  size_t next = 0, skip = 0;  // `skip` bytes of the next piece are written
  while (true) {
    std::array<iovec, 64> batch;
    size_t count = 0;
    for (size_t i = next; i < pieces.size() && count < batch.size(); ++i) {
      const auto piece = pieces[i].subspan(i == next ? skip : 0);
      // The system only reads them.
      if (!piece.empty()) batch[count++] = {const_cast<uint8_t*>(piece.data()), piece.size()};
    }
    if (count == 0) return;
    const ssize_t written =
        ::pwritev(descriptor_, batch.data(), static_cast<int>(count), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written == 0) errno = ENOSPC;
    if (written <= 0) throw_reason(path_);
    offset += static_cast<uint64_t>(written);
    auto left = static_cast<size_t>(written);
    while (left > 0 || (next < pieces.size() && pieces[next].size() == skip)) {
      const size_t here = std::min(left, pieces[next].size() - skip);
      left -= here;
      skip += here;
      if (skip == pieces[next].size()) {
        ++next;
        skip = 0;
      }
    }
  }
}

}  // namespace espalier

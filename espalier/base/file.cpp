#include "espalier/base/file.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <memory>
#include <utility>

#include "espalier/base/byte_source.h"
#include "espalier/base/digest.h"
#include "espalier/base/error.h"

namespace espalier {

namespace fs = std::filesystem;

namespace {

class FileDescriptor {
 public:
  FileDescriptor(const fs::path& path, int flags, mode_t mode = 0644)
      : descriptor_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  ~FileDescriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return descriptor_; }
  bool ok() const { return descriptor_ >= 0; }

 private:
  int descriptor_;
};

std::string reason() { return std::strerror(errno); }

void write_all(int descriptor, std::span<const uint8_t> data, const fs::path& path) {
  while (!data.empty()) {
    const ssize_t written =
        ::write(descriptor, data.data(), std::min<size_t>(data.size(), 1 << 30));
    if (written < 0) {
      if (errno == EINTR) continue;
      const char* advice = errno == ENOSPC ? "; free some space or choose another --out" : "";
      fail("base/file", "cannot write ", path.string(), ": ", reason(), advice);
    }
    data = data.subspan(static_cast<size_t>(written));
  }
}

}  // namespace

FileReader::FileReader(const fs::path& path)
    : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  struct stat status {};
  if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0) {
    const std::string why = reason();
    if (descriptor_ >= 0) ::close(descriptor_);
    fail("base/file", "cannot open ", path.string(), ": ", why);
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

FileReader::~FileReader() { ::close(descriptor_); }

void FileReader::read(uint64_t offset, std::span<uint8_t> out) const {
  while (!out.empty()) {
    const ssize_t count = ::pread(descriptor_, out.data(), std::min<size_t>(out.size(), 1 << 30),
                                  static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("base/file", "cannot read ", path_.string(), ": ", reason());
    if (count == 0) fail("base/file", path_.string(), " ends after ", offset, " bytes");
    offset += static_cast<uint64_t>(count);
    out = out.subspan(static_cast<size_t>(count));
  }
}

uint64_t FileReader::digest(uint64_t from) const {
  constexpr uint64_t kPiece = 1 << 20;
  Bytes piece(static_cast<size_t>(std::min(kPiece, size_)));
  Digest digest;
  for (uint64_t at = from; at < size_; at += piece.size()) {
    const auto part = std::span(piece).first(static_cast<size_t>(std::min(kPiece, size_ - at)));
    read(at, part);
    digest.update(part);
  }
  return digest.value();
}

uint32_t crc32(std::span<const uint8_t> data, uint32_t seed) {
  return static_cast<uint32_t>(::crc32_z(seed, data.data(), data.size()));
}

Bytes read_file(const fs::path& path, uint64_t max_bytes) {
  const FileDescriptor file(path, O_RDONLY);
  if (!file.ok()) fail("base/file", "cannot read ", path.string(), ": ", reason());
  struct stat status {};
  if (::fstat(file.get(), &status) != 0)
    fail("base/file", "cannot read ", path.string(), ": ", reason());
  if (S_ISDIR(status.st_mode)) fail("base/file", "expected a file, got a folder: ", path.string());
  Bytes data;
  // One more than the size: the read that finds the end must not double the buffer.
  if (status.st_size > 0)
    data.reserve(
        static_cast<size_t>(std::min<uint64_t>(static_cast<uint64_t>(status.st_size), max_bytes)) +
        1);
  size_t used = 0;
  for (;;) {
    if (used == data.size()) {
      if (used > max_bytes)
        fail("base/file", path.string(), " is larger than the limit of ", max_bytes, " bytes");
      data.resize(std::max<size_t>(
          {used + 1, data.capacity(), std::min<size_t>(used * 2, used + (1 << 28)), 4096}));
    }
    const ssize_t got = ::read(file.get(), data.data() + used, data.size() - used);
    if (got < 0) {
      if (errno == EINTR) continue;
      fail("base/file", "cannot read ", path.string(), ": ", reason());
    }
    if (got == 0) break;
    used += static_cast<size_t>(got);
  }
  data.resize(used);
  if (used > max_bytes)
    fail("base/file", path.string(), " is larger than the limit of ", max_bytes, " bytes");
  return data;
}

std::string read_text_file(const fs::path& path) {
  const Bytes data = read_file(path);
  return std::string(data.begin(), data.end());
}

Bytes gunzip(std::span<const uint8_t> data, std::string_view where, uint64_t max_bytes) {
  z_stream stream{};
  if (::inflateInit2(&stream, 15 + 16) != Z_OK) fail(where, "cannot start zlib");
  const std::unique_ptr<z_stream, int (*)(z_stream*)> closer(&stream, ::inflateEnd);
  Bytes out;
  size_t used = 0;
  stream.next_in = const_cast<Bytef*>(data.data());
  size_t fed = 0;
  int status = Z_OK;
  while (status != Z_STREAM_END) {
    if (stream.avail_in == 0) {
      const size_t chunk = std::min<size_t>(data.size() - fed, 1 << 30);
      if (chunk == 0) fail(where, "the gzip data is truncated");
      stream.next_in = const_cast<Bytef*>(data.data() + fed);
      stream.avail_in = static_cast<uInt>(chunk);
      fed += chunk;
    }
    if (used == out.size()) out.resize(std::max<size_t>(used * 2, 1 << 16));
    const size_t room = std::min<size_t>(out.size() - used, 1 << 30);
    stream.next_out = out.data() + used;
    stream.avail_out = static_cast<uInt>(room);
    status = ::inflate(&stream, Z_NO_FLUSH);
    used += room - stream.avail_out;
    if (used > max_bytes) fail(where, "unpacks to more than the limit of ", max_bytes, " bytes");
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
      fail(where,
           "the gzip data is corrupt: ", stream.msg != nullptr ? stream.msg : "unknown reason");
    }
  }
  out.resize(used);
  return out;
}

Bytes read_file_maybe_gzip(const fs::path& path, uint64_t max_bytes) {
  Bytes data = read_file(path, max_bytes);
  if (data.size() >= 2 && data[0] == 0x1f && data[1] == 0x8b)
    return gunzip(data, path.string(), max_bytes);
  return data;
}

void write_file_atomic(const fs::path& path, const ByteSource& data) {
  // Of this process alone: two that write one file must not share it.
  const fs::path temporary = concat(path.string(), ".", ::getpid(), ".tmp");
  try {
    const FileDescriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    if (!file.ok()) fail("base/file", "cannot write ", path.string(), ": ", reason());
    data.for_each_piece(
        [&](std::span<const uint8_t> piece) { write_all(file.get(), piece, path); });
    if (::fsync(file.get()) != 0) fail("base/file", "cannot sync ", path.string(), ": ", reason());
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const std::string why = reason();
    ::unlink(temporary.c_str());
    fail("base/file", "cannot replace ", path.string(), ": ", why);
  }
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const FileDescriptor directory(folder, O_RDONLY | O_DIRECTORY);
  if (directory.ok()) ::fsync(directory.get());
}

void write_file_atomic(const fs::path& path, std::span<const uint8_t> data) {
  ByteSource source;
  source.append_view(data);
  write_file_atomic(path, source);
}

void write_text_file_atomic(const fs::path& path, std::string_view text) {
  write_file_atomic(path, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

void refuse_overwriting(const fs::path& output, std::span<const fs::path> inputs) {
  for (const fs::path& input : inputs) {
    std::error_code missing;
    if (fs::equivalent(output, input, missing) && !missing) {
      fail("base/file", "writing ", output.string(), " would destroy what is read (",
           input.string(), "); choose another file");
    }
  }
}

std::optional<FileLock> FileLock::try_take(const fs::path& path, std::string& holder) {
  FileLock lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (lock.descriptor_ < 0) fail("base/file", "cannot write ", path.string(), ": ", reason());
  int taken = 0;
  do {
    taken = ::flock(lock.descriptor_, LOCK_EX | LOCK_NB);
  } while (taken != 0 && errno == EINTR);
  if (taken != 0) {
    if (errno != EWOULDBLOCK) fail("base/file", "cannot lock ", path.string(), ": ", reason());
    holder = read_text_file(path);
    while (!holder.empty() && holder.back() == '\n') holder.pop_back();
    if (holder.empty()) holder = "another process";
    return std::nullopt;
  }
  char host[256] = "this machine", since[32] = "";
  ::gethostname(host, sizeof(host) - 1);
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  std::strftime(since, sizeof(since), "%F %T", ::localtime_r(&now, &local));
  const std::string text = concat("process ", ::getpid(), " on ", host, " since ", since, "\n");
  // Who holds it is a courtesy: a full disk must not keep anybody from the lock.
  static_cast<void>(!::ftruncate(lock.descriptor_, 0));
  static_cast<void>(!::pwrite(lock.descriptor_, text.data(), text.size(), 0));
  return lock;
}

FileLock::FileLock(FileLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

FileLock::~FileLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail("base/file", "cannot create the folder ", path.string(), ": ", error.message());
}

std::string sha256_hex(std::span<const uint8_t> data) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  ESPALIER_CHECK(EVP_Digest(data.data(), data.size(), digest, &size, EVP_sha256(), nullptr) == 1);
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    text += kDigits[digest[i] >> 4];
    text += kDigits[digest[i] & 15];
  }
  return text;
}

}  // namespace espalier

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "espalier/base/bytes.h"

// Files at the edge of the world. Every function throws Error with the path and the system's
// reason.
namespace espalier {

// The whole file. `max_bytes` guards against reading something absurd.
Bytes read_file(const std::filesystem::path& path, uint64_t max_bytes = uint64_t{1} << 36);
std::string read_text_file(const std::filesystem::path& path);

// A file read here and there, for what is too large to be held twice. Throws Error that names the
// file when it cannot be opened or ends too early.
class FileReader {
 public:
  explicit FileReader(const std::filesystem::path& path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  uint64_t size() const { return size_; }
  void read(uint64_t offset, std::span<uint8_t> out) const;
  // XXH3-64 of all from `from` on, in pieces.
  uint64_t digest(uint64_t from = 0) const;

 private:
  std::filesystem::path path_;
  int descriptor_;
  uint64_t size_ = 0;
};

// As read_file, and gunzips what begins with gzip's magic bytes. The unpacked size is limited by
// `max_bytes`.
Bytes read_file_maybe_gzip(const std::filesystem::path& path,
                           uint64_t max_bytes = uint64_t{1} << 34);
Bytes gunzip(std::span<const uint8_t> data, std::string_view where, uint64_t max_bytes);

// Writes beside the target, syncs, renames, syncs the folder: after a crash the target is the old
// file or the new one, whole. On failure (a full disk, say) the temporary file is removed and the
// target is untouched. The temporary file is PATH.PROCESS.tmp.
void write_file_atomic(const std::filesystem::path& path, std::span<const uint8_t> data);
void write_text_file_atomic(const std::filesystem::path& path, std::string_view text);

// Throws Error when `output` is one of the files or folders in `inputs`, under whatever name: what
// was read is never written over. Paths that do not exist are no obstacle.
void refuse_overwriting(const std::filesystem::path& output,
                        std::span<const std::filesystem::path> inputs);

// A file that at most one process holds at a time (flock): the system lets go of it when the holder
// ends, however it ends, so that nothing is left behind by kill -9. The file itself stays; its text
// says who held it last. Other processes may read and write beside it: a lock among the willing.
class FileLock {
 public:
  // Takes it, and makes the file when it is missing. nullopt when another process (or another
  // FileLock of this one) has it; `holder` then says which: "process 4711 on host since …".
  // Throws Error when the file cannot be opened.
  static std::optional<FileLock> try_take(const std::filesystem::path& path, std::string& holder);
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;
  ~FileLock();

 private:
  explicit FileLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

// Creates the folder and its parents; an Error names the folder when it cannot.
void make_folder(const std::filesystem::path& path);

// Lower-case hexadecimal SHA-256.
std::string sha256_hex(std::span<const uint8_t> data);

}  // namespace espalier

#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

namespace espalier {

// A file written here and there, for what arrives in pieces. Throws StorageError with the path and
// the system's reason. Nothing is synced.
class FileWriter {
 public:
  // Made when it is missing (for its owner alone); `fresh`: what is in it goes.
  FileWriter(std::filesystem::path path, bool fresh);
  ~FileWriter();
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&&) = delete;

  // The pieces, one after the other, from `offset` on.
  void write(uint64_t offset, std::span<const std::span<const uint8_t>> pieces);

 private:
  std::filesystem::path path_;
  int descriptor_;
};

}  // namespace espalier

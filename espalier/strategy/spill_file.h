#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>

namespace espalier::strategy {

// One file without a name for all that does not fit into memory, so that a run of many clients
// needs one descriptor and the system frees it however the process ends. What is released is used
// again. Failures of the disk are StorageErrors. write() and release() from one thread at a time;
// read() from many while nobody writes.
class SpillFile {
 public:
  // `folder` is made when it is missing; empty: the system's temporary folder. `what` is kept
  // there and `advice` what to do about a full disk, for messages.
  SpillFile(const std::filesystem::path& folder, std::string what, std::string advice);
  ~SpillFile();
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;

  // The offset at which the bytes now stand: in the smallest hole that holds them, else at the end.
  // When it throws, nothing counts as written.
  uint64_t write(std::span<const uint8_t> bytes);
  // Gives back what one write() returned, whole. When all is given back, the file shrinks to
  // nothing.
  void release(uint64_t offset, uint64_t size);
  // Fills `out` from there; any part of what was written.
  void read(uint64_t offset, std::span<uint8_t> out) const;

 private:
  std::string what_, advice_, path_;
  int file_ = -1;
  uint64_t end_ = 0, live_ = 0;  // bytes: of the file, and of what is written and not released
  std::multimap<uint64_t, uint64_t> holes_;  // offsets by size
};

}  // namespace espalier::strategy

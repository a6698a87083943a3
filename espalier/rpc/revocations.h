#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <set>
#include <string>

namespace espalier::rpc {

// The revoked certificates of an index.json, which is read again when it has changed (looked at
// once a second at most). A file that cannot be read meanwhile changes nothing: what was revoked
// stays so. Thread-safe.
class Revocations {
 public:
  // Throws Error when the file cannot be read.
  explicit Revocations(std::filesystem::path index);
  bool contains(const std::string& serial);

 private:
  // Which file it was: one that is written twice within a tick of the clock has another inode.
  struct Stamp {
    uint64_t inode = 0;
    int64_t size = 0, seconds = 0, nanoseconds = 0;
    friend bool operator==(const Stamp&, const Stamp&) = default;
  };
  Stamp stamp() const;
  void read();

  const std::filesystem::path index_;
  std::mutex mutex_;
  std::set<std::string> serials_;
  Stamp read_;
  std::chrono::steady_clock::time_point looked_{};
};

}  // namespace espalier::rpc

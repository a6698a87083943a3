#pragma once

#include <chrono>
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
  void read();

  const std::filesystem::path index_;
  std::mutex mutex_;
  std::set<std::string> serials_;
  std::filesystem::file_time_type written_{};
  std::chrono::steady_clock::time_point looked_{};
};

}  // namespace espalier::rpc

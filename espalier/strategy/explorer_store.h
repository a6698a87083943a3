#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <span>

#include "espalier/strategy/spill_file.h"

namespace espalier::strategy {

// One long vector of every explorer, for scores that need them one by one and not only their sum.
// They lie on disk; memory is one vector. put() may be called by many threads; StorageError when
// the disk fails.
class ExplorerStore {
 public:
  // `folder` as SpillFile's. `size`: values of a vector.
  ExplorerStore(const std::filesystem::path& folder, size_t size)
      : file_(folder, "explorers' deviations", "set strategy.agreement = 0"), size_(size) {}

  void put(uint64_t client, std::span<const float> values);
  // Calls fn(client, values) in the order of client numbers. Not while another thread puts.
  void for_each(const std::function<void(uint64_t, std::span<const float>)>& fn) const;

 private:
  SpillFile file_;
  size_t size_;
  std::mutex mutex_;
  std::map<uint64_t, uint64_t> offsets_;  // in the file, by client
};

}  // namespace espalier::strategy

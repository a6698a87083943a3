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
// They lie on disk, 4 bytes per value and explorer; memory is one vector. put() may be called by
// many threads, which take turns. StorageError when the disk fails: the run ends, and its message
// says to set strategy.agreement = 0. What is kept does not outlive this object.
class ExplorerStore {
 public:
  // `folder` as SpillFile's. `size`: values of a vector.
  ExplorerStore(const std::filesystem::path& folder, size_t size)
      : file_(folder, "explorers' deviations", "set strategy.agreement = 0"), size_(size) {}

  // values: as many as `size`. Takes the place of what the client put before; with an error that
  // stays.
  void put(uint64_t client, std::span<const float> values);
  // Calls fn(client, values) in the order of client numbers, whoever put first; the values are
  // valid during the call. Not while another thread puts.
  void for_each(const std::function<void(uint64_t, std::span<const float>)>& fn) const;

 private:
  SpillFile file_;
  size_t size_;
  std::mutex mutex_;
  std::map<uint64_t, uint64_t> offsets_;  // in the file, by client
};

}  // namespace espalier::strategy

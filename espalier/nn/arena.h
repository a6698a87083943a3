#pragma once

#include <cstddef>
#include <map>

namespace espalier::nn {

// Assigns byte ranges of one block to buffers whose lifetimes are known beforehand: first fit,
// 64-byte steps.
class ArenaPlanner {
 public:
  size_t allocate(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
      if (hole->second < bytes) continue;
      const size_t at = hole->first, left = hole->second - bytes;
      holes_.erase(hole);
      if (left > 0) holes_.emplace(at + bytes, left);
      live_.emplace(at, bytes);
      return at;
    }
    const size_t at = end_;
    end_ += bytes;
    live_.emplace(at, bytes);
    return at;
  }
  // A range that overlaps no other one, released or not.
  size_t append(size_t bytes) {
    const size_t at = end_;
    end_ += (bytes + 63) / 64 * 64;
    return at;
  }
  // `at` must have come from allocate().
  void release(size_t at) {
    const auto found = live_.find(at);
    auto hole = holes_.emplace(at, found->second).first;
    live_.erase(found);
    if (const auto next = std::next(hole);
        next != holes_.end() && hole->first + hole->second == next->first) {
      hole->second += next->second;
      holes_.erase(next);
    }
    if (hole != holes_.begin()) {
      if (const auto previous = std::prev(hole);
          previous->first + previous->second == hole->first) {
        previous->second += hole->second;
        holes_.erase(hole);
      }
    }
  }
  // Bytes the block needs.
  size_t size() const { return end_; }

 private:
  std::map<size_t, size_t> holes_, live_;
  size_t end_ = 0;
};

}  // namespace espalier::nn

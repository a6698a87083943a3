#include "espalier/rpc/call_limits.h"

#include <algorithm>

namespace espalier::rpc {

bool CallLimits::allow(uint64_t client, Clock::time_point now) {
  if (per_second_ <= 0) return true;
  const auto seconds = [](Clock::duration time) {
    return std::chrono::duration<double>(time).count();
  };
  const double full_after = burst_ / per_second_;
  const std::lock_guard lock(mutex_);
  if (seconds(now - swept_) > full_after) {
    // A full bucket is as good as none.
    std::erase_if(buckets_, [&](const auto& entry) {
      return seconds(now - entry.second.filled) > full_after;
    });
    swept_ = now;
  }
  Bucket& bucket = buckets_.try_emplace(client, Bucket{burst_, now}).first->second;
  bucket.tokens =
      std::min(burst_, bucket.tokens + per_second_ * std::max(0.0, seconds(now - bucket.filled)));
  bucket.filled = now;
  if (bucket.tokens < 1) return false;
  bucket.tokens -= 1;
  return true;
}

}  // namespace espalier::rpc

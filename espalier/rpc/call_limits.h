#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>

namespace espalier::rpc {

// How often each client may call: a bucket of tokens that fills at a rate. A client that is out of
// them is told to come later; others do not notice. Thread-safe; memory: an entry for each client
// that has called within the time a bucket takes to fill.
class CallLimits {
 public:
  using Clock = std::chrono::steady_clock;

  // `per_second` calls on average, `burst` at once; 0 per second: no limit.
  CallLimits(double per_second, double burst) : per_second_(per_second), burst_(burst) {}

  bool allow(uint64_t client, Clock::time_point now = Clock::now());

 private:
  struct Bucket {
    double tokens;
    Clock::time_point filled;
  };
  const double per_second_, burst_;
  std::mutex mutex_;
  std::map<uint64_t, Bucket> buckets_;
  Clock::time_point swept_{};
};

}  // namespace espalier::rpc
